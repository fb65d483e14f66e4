"""Orders of revealing one by one: published scores, calibration by place and frequency, and given orders."""

import math

import pytest
import torch
from rule_steps import drafts_of, run, table

from llada.sampling import orders

VECTORS = {"A": (0.5, 0.49, 0.01), "B": (0.45, 0.30, 0.25), "C": (0.6, 0.2, 0.2), "D": (0.55, 0.45, 0.0)}


@pytest.mark.parametrize(
    ("name", "best", "gap", "nats"),
    [
        ("A", 0.5, 0.01, 0.742167),
        ("B", 0.45, 0.15, 1.067094),
        ("C", 0.6, 0.4, 0.950271),
        ("D", 0.55, 0.10, 0.688139),
    ],
)
def test_b4_scores_are_the_published_ones(name, best, gap, nats):
    logits = torch.tensor([VECTORS[name]], dtype=torch.float64).log()
    drafts = drafts_of(logits, [2])  # the least likely token: only confidence looks at it
    assert float(orders.max_probability(drafts)) == pytest.approx(best, abs=1e-12)
    assert float(orders.margin(drafts)) == pytest.approx(gap, abs=1e-12)
    assert float(orders.entropy(drafts)) == pytest.approx(-nats, abs=1e-6)
    assert float(orders.confidence(drafts)) == pytest.approx(VECTORS[name][2], abs=1e-12)


@pytest.mark.parametrize(
    ("pair", "order", "first"),
    [
        *[("CD", orders.max_probability, "C"), ("CD", orders.margin, "C"), ("CD", orders.entropy, "D")],
        *[("AB", orders.max_probability, "A"), ("AB", orders.margin, "B"), ("AB", orders.entropy, "A")],
    ],
)
def test_b4_orders_disagree_as_published(pair, order, first):
    logits = torch.tensor([VECTORS[name] for name in pair], dtype=torch.float64).log()
    assert pair[int(order(drafts_of(logits, [0, 0])).argmax())] == first


def test_b5_without_decay_and_with_a_constant_background_it_is_confidence_times_a_constant():
    drafts = drafts_of(torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    score = orders.position_calibrated(torch.full((5,), 3.0), decay=0.0)(drafts).exp()
    assert torch.allclose(score, orders.confidence(drafts) * math.log(5))


def test_b5_surprise_is_capped_and_early_positions_come_first():
    drafts = drafts_of(torch.tensor([[0.9, 0.1]] * 3, dtype=torch.float64).log(), [0, 1, 0])
    frequencies = torch.tensor([1.0, math.exp(20) - 1], dtype=torch.float64)  # information 20 and about 0
    score = orders.position_calibrated(frequencies, decay=0.5, cap=10.0)(drafts).exp()
    assert score[[0, 2]].tolist() == pytest.approx([10.0, 10 * math.exp(-1)])
    assert float(score[1]) < 1e-8
    uncapped = orders.position_calibrated(frequencies, decay=0.5, cap=100.0)(drafts).exp()
    assert float(uncapped[0]) == pytest.approx(18.0)


def test_b5_tokens_that_the_corpus_lacks_count_as_its_rarest():
    order = orders.position_calibrated(torch.tensor([0.0, 1.0, 9.0]), decay=0.0)
    score = order(drafts_of(torch.zeros(3, 3, dtype=torch.float64), [0, 1, 2])).exp()
    assert score.tolist() == pytest.approx([math.log(10) / 3, math.log(10) / 3, math.log(10 / 9) / 3])


def test_b5_late_positions_of_a_long_window_still_differ():
    """As a factor exp(-0.25 i) is 0 from i = 420 on in float32, from 2984 on in float64; the rest would go in turn."""
    logits = torch.zeros(4000, 3)
    logits[[901, 3901], 0] = 9.0
    score = orders.position_calibrated(torch.ones(3))(drafts_of(logits, [0] * 4000))
    for late in (901, 3901):
        assert float(score[late]) > float(score[late - 1]) > float(score[late + 1]) > -math.inf


@pytest.mark.parametrize("frequencies", [[-1.0, 2.0], [0.0, 0.0], [[1.0], [2.0]], [float("nan"), 1.0], [math.inf, 1.0]])
def test_b5_impossible_frequencies_are_refused(frequencies):
    with pytest.raises(ValueError, match="frequencies must be one finite number >= 0 per token, not all of them 0"):
        orders.position_calibrated(torch.tensor(frequencies))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("[" * 100_000, id="deep"),
        pytest.param(f"[{10**400}]", id="large"),
        "{}",
        '["a"]',
        "[null]",
        "[[1], [2, 3]]",
        "no JSON",
    ],
)
def test_b5_a_background_that_holds_no_counts_is_refused(content, tmp_path):
    (tmp_path / "counts.json").write_text(content)
    with pytest.raises(ValueError, match=r"counts\.json' must be a JSON list of one count per token"):
        orders.read_frequencies(tmp_path / "counts.json")


def test_b5_a_background_of_another_vocabulary_is_refused():
    order = orders.position_calibrated(torch.ones(3))
    with pytest.raises(ValueError, match="frequencies of 3 tokens do not fit a vocabulary of 4"):
        order(drafts_of(torch.zeros(1, 4)))


@pytest.mark.parametrize("positions", [[0, 0, 1], [1, 2, 3], [0, 2]])
def test_permutation_must_name_every_position_once(positions):
    with pytest.raises(ValueError, match=r"must name each of 0\.\.\d once"):
        orders.permutation(positions)


def test_permutation_is_the_order_in_which_positions_are_revealed():
    path = run(table(1, 5), torch.full((2, 5), 5), 5, order=orders.permutation([2, 0, 3, 4, 1]))
    masked = [(state.canvas == 5)[1].nonzero()[:, 0].tolist() for state in path]
    assert masked == [[0, 1, 3, 4], [1, 3, 4], [1, 4], [1], []]


def test_permutation_must_fit_the_window():
    with pytest.raises(ValueError, match="an order of 2 positions does not fit a window of 3"):
        orders.permutation([1, 0])(drafts_of(torch.zeros(3, 2)))
