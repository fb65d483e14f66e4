"""infill: what it fills, and what it refuses."""

import pytest
import torch
from golden_model import MASK, load_golden, prompts

from llada.sampling.generate import SamplerConfig, infill, infill_states

golden = pytest.fixture(scope="module")(load_golden)


def test_infilling_fills_the_masks_and_nothing_else(golden):
    canvas = prompts(3, 12)
    canvas[0, [0, 3, 11]] = MASK
    canvas[1, :] = MASK
    out = infill(golden[0], canvas, sampler=SamplerConfig(temperature=0.8))
    kept = canvas != MASK
    assert torch.equal(out.sequences[kept], canvas[kept])
    assert not (out.sequences == MASK).any()
    assert out.forward_passes.tolist() == [3, 12, 0]


def test_infilling_in_blocks_and_steps_finishes_every_row(golden):
    canvas = prompts(2, 12)
    canvas[0, 2:9] = MASK
    canvas[1, [1, 10]] = MASK
    out = infill(golden[0], canvas, sampler=SamplerConfig(steps=6, block_length=4))
    assert not (out.sequences == MASK).any()
    assert out.forward_passes.tolist() == [5, 2]


@pytest.mark.parametrize(
    ("fields", "padding", "message"),
    [
        ({"steps": 4, "counts": [4, 2]}, [5, 6], "steps=4 contradicts 2 counts a block; leave it out"),
        ({"steps": 5, "block_length": 4}, None, "steps=5 cannot be shared equally by 2 blocks of 4 tokens"),
        ({"counts": [1, 2]}, None, r"counts=\[1, 2\] reveal 3 tokens, fewer than the 6 of a block"),
        ({"block_length": 4}, [5, 6], "block_length cuts the canvas, and padding would shift the cuts"),
        ({}, [5, MASK], r"the padding holds \[MASK\] tokens, which would be filled; pad with another token"),
        ({"stop_at_eos": True}, None, "stop_at_eos has no effect on infilling"),
        ({"gen_length": 6}, None, "gen_length has no effect on infilling"),
    ],
)
def test_impossible_infilling_is_explained(golden, fields, padding, message):
    canvas = torch.full((1, 8), MASK)
    canvas[0, :2] = torch.tensor(padding or [5, 6])
    present = torch.ones_like(canvas)
    present[0, :2] = padding is None
    with pytest.raises(ValueError, match=message):
        infill(golden[0], canvas, present, SamplerConfig(**fields))


def test_blocks_begin_where_they_are_told_to(golden):
    canvas = torch.cat((prompts(1, 3), torch.full((1, 8), MASK)), dim=1)
    states = list(infill_states(golden[0], canvas, None, SamplerConfig(block_length=4, steps=4), start=3))
    assert [state.block for state in states] == [slice(3, 7)] * 2 + [slice(7, 11)] * 2
    with pytest.raises(ValueError, match=r"the canvas holds \[MASK\] before position 4, where the first block begins"):
        infill_states(golden[0], canvas, None, SamplerConfig(), start=4)
