"""Tokens that are written are edited: where that ends, and what it leaves alone."""

from itertools import pairwise

import pytest
import torch
from bed import Bed
from rule_steps import leave_one_out, run, table

from llada.sampling import reveals
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import Edit, categorical, replacing
from llada.sampling.predictors import suppressed

TWO = Bed((49, 1, 1, 49), length=2, vocab=2)


def edits(
    canvas: list[int], threshold: float, extra_steps: int, bed: Bed = TWO, writable=None, **options
) -> list[State]:
    start = torch.tensor([canvas])
    everything = torch.ones_like(start, dtype=torch.bool) if writable is None else torch.tensor([writable])
    predict = suppressed(leave_one_out(bed), [bed.mask])
    options = {"edit": replacing(threshold, extra_steps), "writable": everything, **options}
    return list(denoise(predict, start, bed.mask, **options))


@pytest.mark.parametrize("cap", [0, 1, 2, 5, 8])
def test_b19_two_tokens_that_swap_for_ever_are_stopped_by_the_cap(cap):
    path = [s.canvas[0].tolist() for s in edits([0, 1], 0.9, cap)]
    assert path == [[1, 0], [0, 1]] * (cap // 2) + [[1, 0]] * (cap % 2)


def test_b19_one_position_at_a_time_reaches_a_likely_pair():
    assert [s.canvas[0].tolist() for s in edits([0, 1], 0.9, 9, writable=[True, False])] == [[1, 1], [1, 1]]


def test_b19_edits_end_when_nothing_changes():
    assert len(edits([1, 1], 0.9, 9)) == 1


def test_b19_the_cap_counts_from_the_last_mask_however_early_that_is():
    """Both masks fall in the first of two steps, and the steps that this saves are no further edits."""
    states = edits([TWO.mask, TWO.mask], 0.9, 3, reveal=reveals.threshold(0.0), steps=2)
    assert len(states) <= 1 + 3
    canvas = torch.full((1, 8), 5)
    swapping = Edit(lambda present: (present.token + 1) % 5, extra_steps=3)
    states = run(table(9), canvas, 5, reveal=reveals.threshold(0.0), edit=swapping)
    assert len(states) == 1 + 3


@pytest.mark.parametrize("reveal", [reveals.ancestral, reveals.remdm("cap", 0.5)], ids=["ancestral", "remdm"])
def test_b19_edits_go_on_after_the_last_step_of_a_rule_that_looks_at_the_time(reveal):
    canvas = torch.full((2, 8), 5)
    swapping = Edit(lambda present: (present.token + 1) % 5, extra_steps=3)
    states = run(table(9), canvas, 5, steps=4, reveal=reveal, edit=swapping)
    assert len(states) == 4 + 3
    assert not (states[3].canvas == 5).any()
    for before, after in pairwise(states[3:]):
        assert torch.equal(after.canvas, (before.canvas + 1) % 5)


def test_b19_a_threshold_of_one_changes_nothing():
    canvas = torch.full((3, 8), 5)
    options = {"reveal": reveals.threshold(0.4), "uniforms": row_uniforms(0, canvas), "draft": categorical(0.7)}
    edited = run(table(10), canvas, 5, edit=replacing(1.0), **options)
    assert torch.equal(edited[-1].canvas, run(table(10), canvas, 5, **options)[-1].canvas)


def test_b19_edits_change_what_was_generated_and_nothing_else():
    canvas = torch.full((16, 8), 5)
    canvas[:, ::3] = torch.randint(0, 5, (16, 3), generator=torch.Generator().manual_seed(0))
    options = {"reveal": reveals.threshold(0.4), "uniforms": row_uniforms(0, canvas), "draft": categorical(1.5)}
    changed = False
    previous = canvas
    for state in run(table(11), canvas, 5, edit=replacing(0.3), **options):
        assert torch.equal(state.canvas[:, ::3], canvas[:, ::3])
        changed |= bool(((previous != 5) & (previous != state.canvas)).any())
        previous = state.canvas
    assert changed
    assert not (previous == 5).any()


def test_b19_stop_token_that_is_edited_away_ends_nothing_and_one_that_stays_ends_the_row():
    canvas, blocks = torch.full((16, 8), 5), [slice(0, 4), slice(4, 8)]
    options = {"draft": categorical(1.5), "uniforms": row_uniforms(0, canvas), "blocks": blocks}
    away = Edit(lambda present: present.token.masked_fill(present.token == 4, 0), extra_steps=2)
    states = run(table(4), canvas, 5, edit=away, stop_token_id=4, **options)
    assert any((state.canvas == 4).any() for state in states)
    assert not (states[-1].canvas == 4).any()
    free = run(table(4), canvas, 5, edit=away, **options)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(states, free, strict=True))
    edited = run(table(4), canvas, 5, edit=replacing(1.0), stop_token_id=4, **options)[-1].canvas
    assert torch.equal(edited, run(table(4), canvas, 5, stop_token_id=4, **options)[-1].canvas)
    assert 0 < (edited == 4).any(dim=1).sum() < 16
