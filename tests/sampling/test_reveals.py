"""Rules that reveal by scores alone: published vectors of the threshold and its relatives, and of mask-predict."""

import pytest
import torch
from rule_steps import run, shown, step_of, table

from llada.sampling import orders, reveals
from llada.sampling.reveals import Step


def scored(*scores: float, **fields) -> Step:
    return step_of([[0.5, 0.5]] * len(scores), score=torch.tensor([scores], dtype=torch.float64), **fields)


@pytest.mark.parametrize(
    ("minimum", "expected"), [(0.9, [0, 2]), (0.95, [2]), (0.96, [2]), (0.3, [0, 1, 2]), (0.0, [0, 1, 2])]
)
def test_threshold_reveals_what_reaches_it_or_else_the_best(minimum, expected):
    assert shown(reveals.threshold(minimum), scored(0.9, 0.3, 0.95)) == expected


@pytest.mark.parametrize(
    ("scores", "revealed"),
    [((0.99, 0.98, 0.5), 2), ((0.99,) * 4, 4), ((0.4, 0.3), 1), ((0.8, 0.79, 0.78), 3), ((0.5, 0.98, 0.99), 2)],
)
def test_b10_factor_reveals_the_published_numbers(scores, revealed):
    assert len(shown(reveals.factor(1.0), scored(*scores))) == revealed


def test_b11_entropy_bound_of_zero_reveals_what_is_certain_and_one_more():
    p = [[1.0, 0.0], [0.7, 0.3], [1.0, 0.0], [0.6, 0.4]]
    for order in (orders.entropy, orders.max_probability):
        step = step_of(p, score=order(step_of(p).drafts)[None])
        assert shown(reveals.entropy_bound(0.0), step) == [0, 1, 2]
    assert shown(reveals.entropy_bound(10.0), step_of(p)) == [0, 1, 2, 3]
    assert shown(reveals.entropy_bound(0.0), step_of(p[1:2] * 3)) == [0]


@pytest.mark.parametrize(
    ("length", "steps", "masked"),
    [(10, 4, [7, 5, 2]), (7, 7, [6, 5, 4, 3, 2, 1]), (5, 10, [4, 4, 3, 3, 2, 2, 1, 1, 1]), (4, 1, [])],
)
def test_b7_mask_predict_masks_the_published_numbers(length, steps, masked):
    states = run(table(1, length), torch.full((2, length), 5), 5, steps=steps, reveal=reveals.mask_predict)
    for row in range(2):
        assert [int((state.canvas[row] == 5).sum()) for state in states] == [*masked, 0]


def test_b7_mask_predict_in_one_step_is_the_likeliest_token_everywhere():
    canvas = torch.full((1, 8), 5)
    (state,) = run(table(2), canvas, 5, steps=1, reveal=reveals.mask_predict)
    assert torch.equal(state.canvas, table(2)(canvas)[..., :5].argmax(dim=-1))


def test_b7_visible_tokens_keep_the_probability_of_when_they_were_predicted():
    """The new prediction doubts position 0, but it was sure then; position 1 is the one that was not."""
    held = torch.tensor([[0.99, 0.3, 0.8]], dtype=torch.float64)
    step = step_of([[0.34, 0.33, 0.33], [0.98, 0.01, 0.01], [0.9, 0.05, 0.05]], [False, False, True],
                   everywhere=True, held=held, index=1, steps=3)  # fmt: skip
    assert float(step.probability[0, 0]) == pytest.approx(0.34)
    assert shown(reveals.mask_predict, step) == [0, 2]
