"""KLASS: tokens that have settled, and the history that tells it."""

from dataclasses import replace

import pytest
import torch
from rule_steps import run, shown, step_of, table
from torch import Tensor

from llada.sampling import orders, reveals
from llada.sampling.orders import Drafts
from llada.sampling.reveals import Rule, Step
from llada.sampling.schedules import given_counts


def klass_history(*predictions: list, masked: list[bool] | None = None, **fields) -> Step:
    steps = [step_of(p, masked, index=i, steps=9, **fields) for i, p in enumerate(predictions)]
    return step_of(predictions[-1], masked, index=len(steps) - 1, steps=9, earlier=tuple(steps[:-1]), **fields)


SURE = [[0.95, 0.05], [0.92, 0.08], [0.4, 0.6]]


def test_b12_nothing_settles_in_the_first_steps_of_a_block():
    assert shown(reveals.klass(history=2), klass_history(SURE)) == [0]
    assert shown(reveals.klass(history=2), klass_history(SURE, SURE)) == [0]
    assert shown(reveals.klass(history=2), klass_history(SURE, SURE, SURE)) == [0, 1]
    assert shown(reveals.klass(history=1), klass_history(SURE, SURE)) == [0, 1]


def test_b12_settled_tokens_are_sure_and_have_not_moved():
    moved = [[0.95, 0.05], [0.5, 0.5], [0.4, 0.6]]
    assert shown(reveals.klass(), klass_history(moved, SURE, SURE)) == [0]
    assert shown(reveals.klass(), klass_history(SURE, moved, SURE)) == [0]
    assert shown(reveals.klass(minimum=0.5), klass_history(SURE, SURE, SURE)) == [0, 1, 2]
    assert shown(reveals.klass(divergence=10.0), klass_history(moved, moved, SURE)) == [0, 1]
    gone = [[0.0, 1.0], [0.92, 0.08], [0.4, 0.6]]  # an infinite divergence
    assert shown(reveals.klass(), klass_history(SURE, gone, SURE)) == [1]


def test_b12_where_fewer_have_settled_than_the_schedule_asks_the_best_others_join():
    p = [[0.95, 0.05], [0.6, 0.4], [0.3, 0.7]]
    step = klass_history(p, p, p, count=torch.tensor([2]))
    assert shown(reveals.klass(), step) == [0, 2]


@pytest.mark.parametrize("counts", [[1] * 8, [2, 2, 2, 2], [3, 1, 4]])
def test_b12_threshold_above_one_is_top_k(counts):
    options = {"counts": given_counts(counts), "steps": len(counts)}
    ours = run(table(3), torch.full((3, 8), 5), 5, reveal=reveals.klass(minimum=1.01), **options)
    usual = run(table(3), torch.full((3, 8), 5), 5, **options)
    assert len(ours) == len(usual)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=True))


def test_b12_history_ends_with_the_block_and_holds_no_more_than_asked():
    lengths, nested = [], []

    def watching(step: Step) -> Tensor:
        lengths.append((step.index, len(step.earlier)))
        nested.extend(len(one.earlier) for one in step.earlier)
        return reveals.top_k(step)

    run(table(4), torch.full((1, 8), 5), 5, blocks=[slice(0, 4), slice(4, 8)], reveal=Rule(watching, lookback=2))
    assert lengths == [(0, 0), (1, 1), (2, 2), (3, 2)] * 2
    assert set(nested) == {0}  # or all predictions of a block would stay in memory


def test_b12_predictions_are_compared_where_the_same_position_was_predicted_before():
    """Two rows and three positions, of which fewer and fewer are masked; the first row has finished by now."""
    here = torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.4, 0.6]], dtype=torch.float64).log()  # no two alike

    def step(masked: list[list[bool]], moved: bool = False, **fields) -> Step:
        predicted = torch.tensor(masked)
        logits = here.expand(2, 3, 2).clone()
        logits[1, 1] += torch.tensor([1.0, 0.0]) * moved
        place = predicted.nonzero()[:, 1]
        tokens = logits.argmax(dim=-1)
        drafts = Drafts(logits[predicted], tokens[predicted], place, 3, torch.full_like(place, 0.5, dtype=torch.double))
        score = reveals.spread(orders.confidence(drafts), predicted, -torch.inf)
        whole = step_of([[0.5, 0.5]] * 3, count=torch.tensor([0, 0]), steps=9, index=2)
        fields |= {"predicted": predicted, "masked": predicted, "drafts": drafts, "draft": tokens, "score": score}
        return replace(whole, writable=torch.ones(2, 3).bool(), held=torch.ones(2, 3).double(), **fields)

    all_of_it, later, now = [[True] * 3] * 2, [[True, False, False], [True] * 3], [[False] * 3, [False, True, True]]
    rule = reveals.klass(history=2)
    settled = rule(step(now, earlier=(step(all_of_it), step(later))))
    assert settled.tolist() == [[True] * 3, [True, True, False]]
    for earlier in ((step(all_of_it, True), step(later)), (step(all_of_it), step(later, True))):
        assert rule(step(now, earlier=earlier)).tolist() == [[True] * 3, [True, False, False]]


@pytest.mark.parametrize("history", [1, 2, 3])
@pytest.mark.parametrize("blocks", [None, [slice(0, 2), slice(2, 8)]])
def test_b12_rows_that_finish_leave_the_history_of_the_others_alone(history, blocks):
    canvas = torch.full((4, 8), 5)
    canvas[0, 1:] = 0
    canvas[1, 4:] = 1
    canvas[3] = 2
    rule = reveals.klass(0.5, 2.0, history)
    together = run(table(8), canvas, 5, reveal=rule, blocks=blocks)
    assert len(together) < 8  # tokens do settle
    assert len({tuple(state.active.tolist()) for state in together}) > 2  # rows do finish
    for i in range(4):
        alone = run(table(8), canvas[i : i + 1], 5, reveal=rule, blocks=blocks)
        taken = [state.canvas[i] for state in together if state.active[i]]
        assert len(taken) == len(alone)
        assert all(torch.equal(state.canvas[0], row) for state, row in zip(alone, taken, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_klass_finishes_in_its_steps_whatever_settles(seed):
    states = run(table(seed), torch.full((2, 8), 5), 5, steps=4, reveal=reveals.klass(0.3, 5.0, 1))
    assert not (states[-1].canvas == 5).any()
