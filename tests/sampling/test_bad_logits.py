"""Logits that are not numbers, at whichever step: an error that says so from every sampler, and never a text."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from counted import EOS, MASK, VOCAB, Counting, canvas_after, prompts
from test_named import NAMES, sampler
from torch import Tensor

from llada.sampling.daedal import end_confidence
from llada.sampling.denoise import denoise
from llada.sampling.generate import SamplerConfig, generate, infill

MESSAGE = "the model's logits are not numbers; look at its weights and its dtype"
ODD = pytest.mark.parametrize("odd", [torch.nan, torch.inf])


class Breaking(Counting):
    """A model whose logits for one token are not numbers from a call on."""

    def __init__(self, odd: float, after: int):
        super().__init__(sharpness=0.1)  # so unsure that no sampler needs a single call
        self.odd, self.after = odd, after

    def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
        broken = len(self.rows) >= self.after
        out = super().__call__(input_ids, attention_mask=attention_mask)
        if broken:
            out.logits[..., 1] = self.odd
        return out


@ODD
@pytest.mark.parametrize("name", NAMES)
def test_no_named_sampler_writes_a_text(name, odd, model, background):
    def poison(_module: Any, _inputs: Any, output: Any) -> None:
        output.logits[..., 9] = odd

    handle = model.register_forward_hook(poison)
    try:
        with pytest.raises(FloatingPointError, match=MESSAGE):
            generate(model, torch.ones(2, 3, dtype=torch.long), None, sampler(name, background))
    finally:
        handle.remove()


@ODD
@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 1.0}, {"temperature": 1.0, "order": "random"}, {"reveal": "entropy_bound", "entropy_bound": 0},
     {"reveal": "gibbs", "steps": 12}, {"edit_threshold": 0.9, "edit_steps": 4}, {"early_exit": True},
     {"cfg_scale": 1.0}, {"cfg_scale": 1.0, "guidance": "adaptive"}, {"speculation": 2},
     {"speculation": 2, "temperature": 1.0, "order": "random"}],
    ids=str,
)  # fmt: skip
def test_later_step_is_noticed_as_the_first_one_is(odd, after, fields):
    config = SamplerConfig(gen_length=8, **fields)
    with pytest.raises(FloatingPointError, match=MESSAGE):
        generate(Breaking(odd, after), prompts(), None, config)
    with pytest.raises(FloatingPointError, match=MESSAGE):
        infill(Breaking(odd, after), canvas_after(prompts()), None, SamplerConfig(**fields))


@ODD
def test_states_before_the_broken_one_are_had(odd):
    model = Breaking(odd, 2)
    states = denoise(lambda c, b: model(c).logits[:, b], canvas_after(prompts()), MASK)
    assert [next(states).index, next(states).index] == [0, 1]
    with pytest.raises(FloatingPointError, match=MESSAGE):
        next(states)


@ODD
def test_confidence_in_the_end_is_that_of_numbers(odd):
    logits = torch.zeros(4, VOCAB)
    logits[2, 0] = odd
    with pytest.raises(FloatingPointError, match=MESSAGE):
        end_confidence(logits, EOS)
