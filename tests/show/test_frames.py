"""Frames: what changed at each step, the same while a sampler runs and from its trace."""

import math

import pytest
import torch
from canvases import trace
from torch import Tensor

from llada.sampling.denoise import denoise
from llada.sampling.drafts import categorical
from llada.sampling.reveals import remdm
from llada.sampling.trace import Recorder
from llada.show.frames import Frames, Mark, probability_of, recorded

V, L, MASK = 6, 9, 5
WEIGHTS = torch.randn(V, L, L, V, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
CANVAS = torch.tensor([[0, 1, *[MASK] * 7], [2, 3, 4, *[MASK] * 6]])


def predict(canvas: Tensor, block: slice) -> Tensor:
    return WEIGHTS[canvas, torch.arange(L)].sum(dim=1)[:, block]


@pytest.mark.parametrize("blocks", [None, [slice(2, 6), slice(6, 9)]])
@pytest.mark.parametrize("row", [0, 1])
def test_frames_of_a_trace_are_those_of_the_run(row, blocks):
    recorder, made, before = Recorder(CANVAS, MASK), Frames(CANVAS[row], MASK), CANVAS
    states = denoise(
        predict, CANVAS, MASK, blocks=blocks, steps=8, draft=categorical(1.0), reveal=remdm("rescale", eta=0.6)
    )
    live = [made.first]
    for state in recorder.watch(states):
        if state.active[row] or not torch.equal(state.canvas[row], before[row]):
            live.append(made.after(state.canvas[row], probability_of(state, row)))
        before = state.canvas
    assert {mark for frame in live for mark in frame.marks} == set(Mark)
    found = list(recorded(recorder.trace, row))
    assert [(frame.ids, frame.marks, frame.revealed_at) for frame in found] == [
        (frame.ids, frame.marks, frame.revealed_at) for frame in live
    ]
    for one, other in zip(found, live, strict=True):
        assert torch.allclose(torch.tensor(one.probability), torch.tensor(other.probability), equal_nan=True)


def test_a_token_that_is_masked_again_has_the_step_and_probability_of_its_last_reveal():
    *_, before, last = recorded(trace())
    assert before.marks[-1] is Mark.REMASKED
    assert math.isnan(before.probability[-1])
    assert before.revealed_at[-1] == 0
    assert before.masks == 1
    assert (last.marks[-1], last.probability[-1], last.revealed_at[-1]) == (Mark.FRESH, 0.2, 5)
    assert last.marks[:2] == [Mark.GIVEN] * 2
    assert last.probability[:2] == [1.0, 1.0]


def test_unknown_row_is_refused():
    with pytest.raises(ValueError, match="row=1 is none of the trace's 1 rows"):
        list(recorded(trace(), 1))
