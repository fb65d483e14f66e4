"""Adaptive guidance, and how far guidance sees."""

from types import SimpleNamespace

import pytest
import torch
from counted import MASK, Counting, canvas_after, prompts
from torch import Tensor

from llada.sampling.generate import SamplerConfig, generate
from llada.sampling.predictors import (
    adaptively_guided,
    plain,
)


def test_adaptive_guidance_of_scale_zero_is_the_conditional_prediction():
    canvas = canvas_after(prompts())
    canvas[:, 4:7] = 1
    given = torch.zeros_like(canvas, dtype=torch.bool)
    given[:, :2] = True
    predict = plain(Counting())
    guide = adaptively_guided(predict, given, MASK, 0.0, 0.5)
    assert torch.allclose(guide(canvas, slice(2, 10)), predict(canvas, slice(2, 10)), atol=1e-12)


@pytest.mark.parametrize(("share", "hidden"), [(0.1, 1), (0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_adaptive_guidance_masks_the_doubtful_share_of_what_was_generated(share, hidden):
    """Scale -1 is the unconditional prediction, so what the second evaluation sees can be found out."""
    canvas = canvas_after(prompts())
    canvas[:, [3, 5, 6, 9]] = torch.tensor([1, 0, 3, 2])
    given = torch.zeros_like(canvas, dtype=torch.bool)
    given[:, :2] = True
    seen: list[Tensor] = []

    def watched(c: Tensor, block: slice) -> Tensor:
        seen.append(c.clone())
        return plain(Counting(3))(c, block)

    adaptively_guided(watched, given, MASK, 1.0, share)(canvas, slice(2, 10))
    first, second = seen
    assert torch.equal(first, canvas)
    changed = first != second
    assert (changed.sum(dim=1) == hidden).all()
    assert (second[changed] == MASK).all()
    p = plain(Counting(3))(canvas, slice(0, 10)).index_fill(-1, torch.tensor([MASK]), -torch.inf).softmax(dim=-1)
    doubt = 1 - p.gather(-1, canvas[..., None])[..., 0]
    for row in range(4):
        least = sorted([3, 5, 6, 9], key=lambda i: -float(doubt[row, i]))[:hidden]
        assert set(changed[row].nonzero()[:, 0].tolist()) == set(least)


def test_adaptive_guidance_before_anything_is_generated_changes_nothing():
    canvas = canvas_after(prompts())
    predict = plain(Counting())
    guide = adaptively_guided(predict, canvas != MASK, MASK, 2.0, 0.7)
    assert torch.allclose(guide(canvas, slice(2, 10)), predict(canvas, slice(2, 10)), atol=1e-12)


def test_probability_of_the_mask_itself_raises_no_doubt():
    """At position 0 the model would rather say [MASK]; without it, it is sure of the token that stands there."""
    logits = torch.tensor([[[3.0, 0.0, 9.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    seen: list[Tensor] = []

    def predict(canvas: Tensor, block: slice) -> Tensor:
        seen.append(canvas)
        return logits[:, block]

    adaptively_guided(predict, torch.zeros(1, 3).bool(), 2, 1.0, 0.5)(torch.tensor([[0, 0, 2]]), slice(0, 3))
    assert seen[1].tolist() == [[0, 2, 2]]


@pytest.mark.parametrize("guidance", ["prompt", "adaptive"])
def test_guidance_counts_its_evaluations_twice(guidance):
    model = Counting()
    out = generate(model, prompts(), None, SamplerConfig(gen_length=8, steps=4, cfg_scale=1.0, guidance=guidance))
    assert out.forward_passes.tolist() == [8] * 4
    assert model.rows == [4] * 8
    assert out.tokens_per_forward.max() <= 1.0


def test_share_of_adaptive_guidance_is_the_papers_unless_given():
    sampler = SamplerConfig(gen_length=8, cfg_scale=1.0, guidance="adaptive")
    default = generate(Counting(), prompts(), None, sampler).sequences
    assert torch.equal(default, generate(Counting(), prompts(), None, sampler.replace(guidance_share=0.7)).sequences)


@pytest.mark.parametrize("guidance", ["prompt", "adaptive"])
def test_guidance_is_not_shown_blocks_that_do_not_exist_yet(guidance):
    seen = []

    class Watched(Counting):
        def __call__(self, input_ids: Tensor, /, *, attention_mask: Tensor | None = None) -> SimpleNamespace:
            seen.append(input_ids.shape[1])
            return super().__call__(input_ids, attention_mask=attention_mask)

    sampler = SamplerConfig(gen_length=8, block_length=4, cfg_scale=1.0, guidance=guidance, stop_at_eos=True,
                            variable_length=True)  # fmt: skip
    generate(Watched(5), prompts(), None, sampler)
    assert seen == sorted(seen)
    assert set(seen) == {6, 10}
