"""Traces: recorded and replayed."""

import itertools

import pytest
import torch
from torch import Tensor
from traced import MASK, PROMPT, RUNS, STOP, L, masks, predict, recorded, run, start

from llada.sampling.denoise import denoise
from llada.sampling.trace import Kind, Recorder, Trace
from llada.sampling.trace_measures import ar_ness, confidence_of_reveals, tokens_per_forward

KINDS = {
    "stop token": Kind.FILLED,
    "stop token late": Kind.FILLED,
    "mask_predict": Kind.REMASKED,
    "remdm": Kind.REMASKED,
    "gibbs": Kind.REMASKED,
    "edits": Kind.EDITED,
}


@pytest.mark.parametrize("name", RUNS)
def test_replay_gives_the_canvas_of_every_state(name):
    states, trace = run(name)
    replayed = list(trace.replay())
    assert trace.steps == len(states) == len(replayed) > 0
    assert all(torch.equal(canvas, state.canvas) for canvas, state in zip(replayed, states, strict=True))
    assert torch.equal(trace.final, states[-1].canvas)
    assert torch.equal(trace.canvas, start())


@pytest.mark.parametrize("name", RUNS)
def test_recording_does_not_change_the_states(name):
    states, _ = run(name)
    for seen, alone in zip(states, denoise(predict, start(), MASK, **RUNS[name]), strict=True):
        for field, value in vars(alone).items():
            other = vars(seen)[field]
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


@pytest.mark.parametrize("name", RUNS)
def test_columns_say_what_the_states_say(name):
    """The slow reading: one row, one position after the other."""
    states, trace = run(name)
    expected, before = [], start()
    for step, state in enumerate(states):
        for row, position in itertools.product(range(len(before)), range(L)):
            old, new = int(before[row, position]), int(state.canvas[row, position])
            if old == new:
                continue
            inside = state.block.start <= position < state.block.stop and bool(state.active[row])
            place = row, position - state.block.start
            asked = inside and new == (int(state.draft[place]) if state.visible[place] else MASK)
            kind = Kind.FILLED if not asked else Kind.EDITED if old != MASK else Kind.REVEALED
            kind = Kind.REMASKED if new == MASK else kind
            p = float(state.probability[place]) if kind == Kind.REVEALED else 1.0
            expected.append((step, row, position, new, kind, p))
        before = state.canvas
    columns = (trace.step, trace.row, trace.position, trace.token, trace.kind, trace.probability)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == expected
    assert trace.index.tolist() == [state.index for state in states]
    assert trace.blocks.tolist() == [[state.block.start, state.block.stop] for state in states]
    assert torch.equal(trace.active, torch.stack([state.active for state in states]))


@pytest.mark.parametrize("name", KINDS)
def test_runs_of_these_tests_have_the_changes_that_they_are_for(name):
    trace = run(name)[1]
    assert (trace.kind == KINDS[name]).any()
    assert (trace.kind == Kind.REVEALED).any()


def test_revealed_tokens_have_their_probability_and_all_other_changes_have_one():
    for name in RUNS:
        trace = run(name)[1]
        revealed = trace.kind == Kind.REVEALED
        assert (trace.probability[~revealed] == 1).all()
        assert ((trace.probability[revealed] > 0) & (trace.probability[revealed] < 1)).all()


def test_a_row_that_had_stopped_before_the_first_step_is_filled_and_takes_no_part():
    canvas = masks(2)
    canvas[0, :2] = torch.tensor([STOP, 1])
    everything = torch.ones(2, L, dtype=torch.bool)
    blocks = [slice(0, 2), slice(2, L)]
    states, trace = recorded(canvas, blocks=blocks, writable=everything, stop_token_id=STOP, steps=2)
    assert torch.equal(next(trace.replay()), states[0].canvas)
    at_once = (trace.row == 0) & (trace.step == 0)
    assert not trace.active[:, 0].any()
    assert trace.position[at_once].tolist() == list(range(1, L))
    assert (trace.kind[at_once] == Kind.FILLED).all()


def test_a_run_that_is_left_early_is_recorded_up_to_there_and_goes_on_from_there():
    canvas = start()
    recorder = Recorder(canvas, MASK)
    states = recorder.watch(denoise(predict, canvas, MASK, blocks=[slice(PROMPT, L)], steps=9))
    left = [next(states), next(states)][-1].canvas
    assert recorder.trace.steps == 2
    assert torch.equal(recorder.trace.final, left)
    rest = list(recorder.watch(denoise(predict, left, MASK, blocks=[slice(PROMPT, L)], steps=9, first_step=2)))
    assert recorder.trace.index.tolist() == list(range(2 + len(rest)))
    assert torch.equal(recorder.trace.final, rest[-1].canvas)


@pytest.mark.parametrize("shape", [(0, L), (2, 0), (2, L)])
def test_a_run_without_steps_is_a_trace_without_changes(shape, tmp_path):
    states, trace = recorded(torch.zeros(shape, dtype=torch.long))
    assert states == list(trace.replay()) == []
    assert torch.equal(trace.final, torch.zeros(shape, dtype=torch.long))
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace
    assert ar_ness(trace, 1).local_at_k.isnan().tolist() == [True] * shape[0]
    assert confidence_of_reveals(trace).mean.isnan().tolist() == [True] * shape[0]
    assert tokens_per_forward(trace).tolist() == [0.0] * shape[0]


def test_a_canvas_of_another_size_is_refused():
    recorder = Recorder(start()[:, :PROMPT], MASK)
    with pytest.raises(ValueError, match=r"a canvas \(4, 3\) and watches one of \(4, 12\); give it the canvas"):
        list(recorder.watch(denoise(predict, start(), MASK)))
