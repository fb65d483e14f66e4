"""Path planning, by the model itself, by leaving one out, and by a planner."""

import math
from itertools import pairwise

import pytest
import torch
from bed import BED, Bed
from rule_steps import Asked, leave_one_out, run, table
from torch import Tensor

from llada.sampling import orders, reveals
from llada.sampling.denoise import denoise
from llada.sampling.predictors import suppressed
from llada.sampling.schedules import given_counts


def blank(bed: Bed = BED, rows: int = 1) -> Tensor:
    return torch.full((rows, bed.length), bed.mask)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_t24_path_planning_without_weight_is_max_probability_with_the_counts_of_kappa(steps):
    states = run(BED.oracle, blank(), BED.mask, steps=steps, reveal=reveals.p2(0.0))
    left = [math.floor(3 * (1 - j / steps) + 1e-9) for j in range(steps + 1)]
    counts = [before - after for before, after in pairwise(left)]
    usual = run(BED.oracle, blank(), BED.mask, steps=steps, order=orders.max_probability, counts=given_counts(counts))
    assert [s.canvas.tolist() for s in states] == [s.canvas.tolist() for s in usual]
    if steps == 3:
        assert [s.canvas[0].tolist() for s in states] == [[3, 2, 3], [2, 2, 3], [2, 2, 2]]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("kappa", [lambda done: done, lambda done: done**2, lambda done: math.sin(done * math.pi / 2)])
def test_t24_path_planning_masks_the_floor_of_the_schedule(eta, kappa):
    canvas = torch.full((2, 8), 5)
    canvas[1, :3] = 0  # a prompt is none of the n
    states = run(table(6), canvas, 5, steps=5, reveal=reveals.p2(eta, kappa=kappa))
    for j, state in enumerate(states, start=1):
        expected = [math.floor(n * (1 - kappa(j / 5)) + 1e-9) for n in (8, 5)]
        assert (state.canvas == 5).sum(dim=1).tolist() == expected
        assert (state.canvas[1, :3] == 0).all()


@pytest.mark.parametrize("eta", [2.0, 3.0, 4.0])
def test_t24_path_planning_by_leave_one_out_masks_again_as_published(eta):
    rule = reveals.p2(eta, planner=suppressed(leave_one_out(BED), [BED.mask]))
    path = [s.canvas[0].tolist() for s in run(BED.oracle, blank(), BED.mask, steps=3, reveal=rule)]
    assert path == [[3, 2, 3], [2, 3, 1], [2, 2, 1]]
    assert run(BED.oracle, blank(), BED.mask, steps=6, reveal=rule)[-1].canvas.tolist() == [[2, 2, 2]]


def test_planner_of_a_batch_sees_whole_canvases_and_plans_each_row_as_alone():
    """Rows with fewer masks are finished earlier, and nothing is planned for them then."""
    canvas = torch.full((3, 8), 5)
    canvas[0, 2:] = 1
    canvas[2, 5:] = 0
    planner = Asked(7)
    completed = []

    class Watched(Asked):
        def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
            completed.append(canvas)
            return super().at(canvas, block, wanted)

    rule = reveals.p2(2.0, planner=suppressed(Watched(7, planner.asked), [5]))
    states = list(denoise(Asked(3), canvas, 5, steps=8, reveal=rule))
    assert not (states[-1].canvas == 5).any()
    assert all(seen.shape == (3, 8) for seen in completed)
    for state, seen, wanted in zip(states, completed, planner.asked, strict=True):
        assert (seen != 5)[state.active].all()  # what was drafted is written down
        assert torch.equal(wanted, (canvas == 5) & state.active[:, None])
    assert len({tuple(state.active.tolist()) for state in states}) > 1
    for i in range(3):
        rows = torch.tensor([i])
        rule = reveals.p2(2.0, planner=suppressed(Asked(7, rows=rows), [5]))
        alone = list(denoise(Asked(3, rows=rows), canvas[i : i + 1], 5, steps=8, reveal=rule))
        assert torch.equal(alone[-1].canvas[0], states[-1].canvas[i])
        assert len(alone) == sum(int(state.active[i]) for state in states)


def test_planner_in_half_precision_is_compared_in_float32():
    """In bfloat16 all of its probabilities are 1; it trusts the first token least."""
    trust = torch.tensor([[[8.0, 0.0, -99.0], [8.0625, 0.0, -99.0], [8.0625, 0.0, -99.0]]])
    sure = torch.tensor([[[30.0, 0.0, 0.0]] * 3])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rule = reveals.p2(1.0, planner=lambda canvas, block, dtype=dtype: trust[:, block].to(dtype))
        options = {"writable": torch.ones(1, 3, dtype=torch.bool), "steps": 3, "first_step": 1, "reveal": rule}
        state = next(denoise(lambda canvas, block: sure[:, block], torch.tensor([[0, 0, 2]]), 2, **options))
        assert state.canvas.tolist() == [[2, 0, 0]], dtype
