"""Forbidden and allowed tokens."""

import pytest
import torch
from bed import BED
from counted import EOS, MASK, VOCAB, Counting, canvas_after, prompts
from torch import Tensor

from llada.sampling.denoise import denoise
from llada.sampling.drafts import categorical
from llada.sampling.generate import SamplerConfig, generate, infill
from llada.sampling.predictors import (
    guided,
    plain,
    restricted,
    suppressed,
)


def test_restricted_drafts_come_from_the_allowed_tokens_of_their_position():
    allowed = torch.rand(10, VOCAB, generator=torch.Generator().manual_seed(0)) < 0.4
    allowed[:, 0] = True
    canvas = canvas_after(prompts())
    predict = restricted(plain(Counting()), allowed)
    for blocks in (None, [slice(2, 6), slice(6, 10)]):
        *_, last = denoise(predict, canvas, MASK, blocks=blocks, draft=categorical(1.5))
        assert torch.equal(last.canvas[:, :2], canvas[:, :2])
        assert allowed[torch.arange(10), last.canvas][:, 2:].all()


def test_allowed_tokens_can_differ_from_row_to_row_and_follow_the_rows_that_go_on():
    canvas = canvas_after(prompts(3))
    canvas[0, 4:] = 0
    canvas[2, 3] = 1
    allowed = torch.zeros(3, 10, VOCAB, dtype=torch.bool)
    for row in range(3):
        allowed[row, :, row + 1] = True
    *_, last = denoise(restricted(plain(Counting()), allowed), canvas, MASK)
    for row in range(3):
        assert (last.canvas[row][canvas[row] == MASK] == row + 1).all()


def test_restriction_renormalises_the_prediction():
    canvas = torch.full((1, 3), BED.mask)
    allowed = torch.tensor([True, False, True, False])
    free = BED.oracle(canvas)[..., :3].softmax(dim=-1)
    p = restricted(lambda c, b: BED.oracle(c)[:, b], allowed.expand(3, 4))(canvas, slice(0, 3)).softmax(dim=-1)
    assert torch.allclose(p[..., [0, 2]], free[..., [0, 2]] / free[..., [0, 2]].sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("own", [False, True], ids=["any row", "row by row"])
def test_restriction_and_guidance_can_be_wrapped_in_any_order(scale, own):
    generator = torch.Generator().manual_seed(1)
    allowed = torch.rand((4, 10, VOCAB) if own else (10, VOCAB), generator=generator) < 0.4
    allowed[..., 3] = True
    canvas, block = canvas_after(prompts()), slice(2, 10)
    given = canvas != MASK
    inside = guided(restricted(plain(Counting()), allowed), given, MASK, scale)
    outside = restricted(guided(plain(Counting()), given, MASK, scale), allowed)
    assert torch.equal(inside(canvas, block), outside(canvas, block))
    assert torch.equal(inside(canvas, block) == -torch.inf, ~allowed[..., block, :].expand(4, -1, -1))
    inside = guided(suppressed(plain(Counting()), [0, 2]), given, MASK, scale)
    outside = suppressed(guided(plain(Counting()), given, MASK, scale), [0, 2])
    assert torch.equal(inside(canvas, block), outside(canvas, block))
    *_, last = denoise(guided(restricted(plain(Counting()), allowed), given, MASK, scale), canvas, MASK,
                       draft=categorical(1.5))  # fmt: skip
    assert allowed.expand(4, -1, -1).gather(-1, last.canvas[..., None])[:, 2:].all()


@pytest.mark.parametrize("scale", [-1.0, 0.0, 1.0])
def test_token_that_either_prediction_excludes_stays_excluded_under_guidance(scale):
    canvas = torch.tensor([[0, MASK]])

    def predict(canvas: Tensor, block: slice) -> Tensor:
        excluded = torch.where(canvas[:, :1] == MASK, torch.tensor([0, 2]), torch.tensor([1, 2]))  # (1, 2)
        return (
            torch.arange(3.0, 6.0).expand(1, 2, 3).scatter(2, excluded[:, None].expand(1, 2, 2), -torch.inf)[:, block]
        )

    logits = guided(predict, canvas != MASK, MASK, scale)(canvas, slice(0, 2))
    assert (logits == -torch.inf).all()  # 1 and 2 in one of them, 0 and 2 in the other
    assert not logits.isnan().any()


def test_position_without_an_allowed_token_is_refused():
    allowed = torch.ones(4, VOCAB, dtype=torch.bool)
    allowed[2] = False
    with pytest.raises(ValueError, match="allowed leaves no token at some position; allow one, or write it into the"):
        restricted(plain(Counting()), allowed)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_suppressed_tokens_are_never_written(temperature, guidance):
    sampler = SamplerConfig(gen_length=8, temperature=temperature, suppress_tokens=[0, 2], cfg_scale=guidance)
    out = generate(Counting(), prompts(16), None, sampler).sequences[:, 2:]
    assert set(out.flatten().tolist()) <= {1, 3, 4}
    both = generate(Counting(), prompts(16), None, sampler.replace(forbid_eos=True)).sequences[:, 2:]
    assert set(both.flatten().tolist()) <= {1, 3}
    filled = infill(Counting(), canvas_after(prompts(2)), sampler=SamplerConfig(suppress_tokens=[0, 1, 2, 3]))
    assert (filled.sequences[:, 2:] == EOS).all()
