"""Predictors that say what they were asked for, and the golden model with its prompts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from torch import Tensor

import llada
from llada.sampling.predictors import (
    Predict,
    Predictor,
    adaptively_guided,
    guided,
    restricted,
    suppressed,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-mha"
MASK, EOS = 5, 4  # of the small predictors below
LENGTH, VOCAB = 8, 6


@dataclass
class Counting:
    """A model that hashes its canvas, and writes down how many rows each evaluation has."""

    seed: int = 0
    sharpness: float = 1.0
    rows: list[int] = field(default_factory=list)
    config: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(mask_token_id=MASK, eos_token_id=EOS))

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        self.rows.append(len(input_ids))
        L = input_ids.shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        weights = torch.randn(L, VOCAB, L, VOCAB, generator=generator, dtype=torch.float64)
        one_hot = torch.nn.functional.one_hot(input_ids, VOCAB).double()
        return SimpleNamespace(logits=self.sharpness * torch.einsum("biu,iujv->bjv", one_hot, weights))


def prompts(rows: int = 4, length: int = 2) -> Tensor:
    return torch.randint(0, 4, (rows, length), generator=torch.Generator().manual_seed(rows))


def canvas_after(tokens: Tensor, masks: int = LENGTH) -> Tensor:
    return torch.cat((tokens, torch.full((len(tokens), masks), MASK)), dim=1)


def bare(predict: Predict) -> Predict:
    """The same prediction as a bare function, which always computes everything."""
    return lambda canvas, block: predict(canvas, block)


def some_canvas() -> tuple[Tensor, Tensor]:
    """Six rows with tokens among their masks, and positions of the last eight columns, none in rows 1 and 4."""
    generator = torch.Generator().manual_seed(2)
    canvas = canvas_after(prompts(6))
    written = torch.rand(6, 8, generator=generator) < 0.4
    canvas[:, 2:] = torch.where(written, torch.randint(0, 4, (6, 8), generator=generator), canvas[:, 2:])
    wanted = torch.rand(6, 8, generator=generator) < 0.5
    wanted[[1, 4]] = False
    assert wanted.any(dim=1).tolist() == [True, False, True, True, False, True]
    return canvas, wanted


CANVAS, WANTED = some_canvas()
GIVEN = torch.arange(10).expand(6, -1) < 2
ALLOWED = torch.rand(6, 10, VOCAB, generator=torch.Generator().manual_seed(4)).argsort(dim=-1) < 4
WRAPPED: dict[str, Callable[[Predict], Predictor]] = {
    "guided": lambda predict: guided(predict, GIVEN, MASK, 0.7),
    "adaptively guided": lambda predict: adaptively_guided(predict, GIVEN, MASK, 0.7, 0.6),
    "suppressed": lambda predict: suppressed(predict, [0, 2]),
    "restricted": lambda predict: restricted(predict, ALLOWED[0]),
    "restricted row by row": lambda predict: restricted(predict, ALLOWED),
    "guided and restricted": lambda predict: suppressed(restricted(guided(predict, GIVEN, MASK, 0.7), ALLOWED), [2]),
    "restricted and guided": lambda predict: adaptively_guided(restricted(predict, ALLOWED), GIVEN, MASK, 0.7, 0.6),
}
ALL = {"plain": lambda predict: predict, **WRAPPED}


@dataclass
class Padded(Counting):
    """Its logits depend on where padding is, too."""

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        logits = super().__call__(input_ids, attention_mask=attention_mask).logits
        moved = 0 if attention_mask is None else (1 - attention_mask).sum(dim=1)[:, None, None]
        return SimpleNamespace(logits=logits + moved * torch.arange(VOCAB))


@dataclass
class Lean(Padded):
    """One that can be asked for some positions, and writes down which it was asked for."""

    asked: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    selects_logits = True

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None, logits_at: Tensor | None = None):
        out = super().__call__(input_ids, attention_mask=attention_mask)
        if logits_at is not None:
            length = input_ids.shape[1]
            self.asked.append((logits_at // length, logits_at % length))
            out.logits = out.logits.flatten(0, 1)[logits_at]
        return out


def load_golden():
    model, _ = llada.load_pretrained(GOLDEN)
    return model, load_file(GOLDEN / "reference.safetensors")
