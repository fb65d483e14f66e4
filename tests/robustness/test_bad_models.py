"""Any model from elsewhere: `generate`, `infill` and likelihoods are of a healthy one, or refuse it."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from bad_values import numbers_of_cases, samplers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llada.eval.likelihood import log_likelihood
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate, infill

VOCAB, LENGTH = 262, 3


def _at(logits: Tensor, value: float, token: int) -> Tensor:
    logits = logits.clone()
    logits[..., token] = value
    return logits


SHAPES = {
    "longer": lambda logits: logits.repeat(1, 2, 1),
    "shorter": lambda logits: logits[:, 1:],
    "more rows": lambda logits: logits.repeat(2, 1, 1),
    "flat": lambda logits: logits.flatten(0, 1),
    "with one dimension more": lambda logits: logits[None],
    "of no token": lambda logits: logits[..., :0],
}
NUMBERS = {
    "nan": lambda logits: logits * torch.nan,
    "inf": lambda logits: _at(logits, torch.inf, 9),
    "a column of nan": lambda logits: _at(logits, torch.nan, 9),
}
BROKEN = SHAPES | NUMBERS


@dataclass
class Odd:
    """A model of random logits that breaks at a call."""

    how: str | None
    after: int
    config: SimpleNamespace
    calls: int = 0

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        generator = torch.Generator().manual_seed(int(input_ids.sum()))
        logits = torch.randn(*input_ids.shape, VOCAB, generator=generator, dtype=torch.float64)
        broken = self.how is not None and self.calls >= self.after
        self.calls += 1
        return SimpleNamespace(logits=BROKEN[self.how](logits) if broken else logits)

    @property
    def broke(self) -> bool:
        return self.how is not None and self.calls > self.after


@st.composite
def models(draw: st.DrawFn) -> Odd:
    config = SimpleNamespace(
        mask_token_id=draw(st.sampled_from([0, 0, 0, 0, VOCAB, VOCAB + 7, -1, None, 1.0])),
        eos_token_id=draw(st.sampled_from([2, 2, None, [2, 3], 1.5])),
        eot_token_id=draw(st.sampled_from([3, None])),
    )
    return Odd(draw(st.sampled_from([None, *BROKEN])), draw(st.integers(0, 4)), config)


@numbers_of_cases(40, 10_000)
def test_models_are_refused_or_healthy_where_they_were_used(cases, backgrounds):
    texts = 0

    @settings(max_examples=cases)
    @given(models(), samplers(), st.sampled_from(["generate", "infill", "log_likelihood"]))
    def check(model: Odd, fields: dict[str, Any], entry: str) -> None:
        nonlocal texts
        try:
            if entry == "log_likelihood":
                found = log_likelihood(model, [5, 6], [7, 8], 3)
                assert found.value < 0
            else:
                prompt = torch.full((2, LENGTH), 7)
                if entry == "generate":
                    out = generate(model, prompt, None, SamplerConfig(**fields))
                else:
                    mask = model.config.mask_token_id
                    mask = mask if isinstance(mask, int) else 0
                    masks = torch.tensor([[7, mask, mask, mask, 9]] * 2)
                    out = infill(
                        model, masks, None, SamplerConfig(**{k: v for k, v in fields.items() if k != "gen_length"})
                    )
                assert ((out.sequences > 0) & (out.sequences < VOCAB)).all()
                assert out.tokens_per_forward.isfinite().all()
        except (ValueError, FloatingPointError):
            return
        assert not model.broke
        assert model.config.mask_token_id == 0
        texts += 1

    check()
    assert texts > cases // 12
