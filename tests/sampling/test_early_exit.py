"""Early exit: reductions to the rule it is added to, and the gap that it waits for."""

import math

import pytest
import torch
from rule_steps import drawn, run, shown, step_of, table

from llada.sampling import reveals
from llada.sampling.reveals import Rule


@pytest.mark.parametrize("base", [reveals.top_k, reveals.threshold(0.5), reveals.ancestral])
def test_b25_infinite_gaps_are_the_base_rule_or_one_prediction(base):
    canvas = torch.full((2, 8), 5)
    usual = run(table(12), canvas, 5, reveal=base)
    never = run(table(12), canvas, 5, reveal=reveals.early_exit(base, (math.inf,) * 3))
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(usual, never, strict=True))
    (once,) = run(table(12), canvas, 5, reveal=reveals.early_exit(base, (-math.inf,) * 3))
    assert torch.equal(once.canvas, table(12)(canvas)[..., :5].argmax(dim=-1))


def test_b25_gap_is_the_mean_over_masks_and_its_bound_falls_by_thirds():
    logits = torch.tensor([[8.0, 0.0], [0.0, 4.0], [90.0, 0.0]], dtype=torch.float64)  # mean gap 6 over two masks
    for index, leaves in ((0, False), (2, False), (3, True), (5, True), (6, True), (8, True)):
        for everywhere in (False, True):
            step = step_of([], [True, True, False], everywhere=everywhere, logits=logits, index=index, steps=9)
            assert (len(shown(reveals.early_exit(reveals.top_k), step)) == 3) == leaves


@pytest.mark.parametrize(
    "rule", [reveals.klass(0.5, 0.5, 3), reveals.p2(2.0), reveals.remdm("rescale", 0.5)], ids=["klass", "p2", "remdm"]
)
def test_b25_early_exit_of_a_rule_asks_of_the_loop_what_the_rule_asks(rule):
    never = reveals.early_exit(rule, (math.inf,) * 3)
    assert isinstance(never, Rule)
    traits = ("everywhere", "every_step", "lookback")
    assert [getattr(never, trait) for trait in traits] == [getattr(rule, trait) for trait in traits]
    ours, usual = drawn(steps=8, reveal=never), drawn(steps=8, reveal=rule)
    assert len(ours) == len(usual)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=True))
    (once,) = drawn(steps=1, reveal=reveals.early_exit(rule, (-1.0,) * 3))
    assert not (once.canvas == 5).any()


def test_b25_gap_of_no_masks_is_none_and_leaves_the_decision_to_the_rule():
    """Where nothing is masked there is nothing to be sure of; a rule that masks again may do so."""
    rule, full = reveals.remdm("rescale", 1.0), False
    for seed in range(5):
        usual = drawn(seed, steps=24, reveal=rule)
        never = drawn(seed, steps=24, reveal=reveals.early_exit(rule, (1e9,) * 3))
        assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(usual, never, strict=True))
        full |= any(bool((state.canvas != 5).all(dim=1).any()) for state in usual[:-1])
    assert full  # a row has no masks before the last step
