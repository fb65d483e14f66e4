"""The rules of the samplers one by one: published vectors, reductions to each other, and every refusal."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from bed import BED, Bed
from torch import Tensor

from llada.config import ConfigError
from llada.sampling import orders, reveals
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import Edit, categorical, draft_at, replacing, truncated
from llada.sampling.generate import SamplerConfig
from llada.sampling.orders import ORDERS, Drafts
from llada.sampling.predictors import Predictor, suppressed
from llada.sampling.reveals import REVEALS, Reveal, Rule, Step
from llada.sampling.schedules import cosine_counts, given_counts
from llada.sampling.uniforms import Stream

VECTORS = {"A": (0.5, 0.49, 0.01), "B": (0.45, 0.30, 0.25), "C": (0.6, 0.2, 0.2), "D": (0.55, 0.45, 0.0)}


def drafts_of(logits: Tensor, token: list[int] | None = None) -> Drafts:
    """Drafts at all positions of one window, of logits (W, V); the likeliest tokens unless others are given."""
    drafted = logits.argmax(dim=-1) if token is None else torch.tensor(token)
    W = len(logits)
    return Drafts(logits, drafted, torch.arange(W), W, torch.full((W,), 0.5, dtype=torch.float64))


def step_of(p: list, masked: list[bool] | None = None, *, everywhere: bool = False, **fields) -> Step:
    """A step of one row with the given probabilities (W, V), greedy drafts and their confidence as scores.

    Predicted is what is masked, or everything.
    """
    whole = drafts_of(fields.pop("logits", torch.tensor(p, dtype=torch.float64).log()))
    W = whole.width
    hidden = torch.ones(1, W, dtype=torch.bool) if masked is None else torch.tensor([masked])
    predicted = torch.ones_like(hidden) if everywhere else hidden
    at = predicted[0]
    drafts = Drafts(whole.logits[at], whole.token[at], whole.place[at], W, whole.uniforms[at])
    given = {
        "drafts": drafts,
        "predicted": predicted,
        "draft": whole.token[None],
        "score": reveals.spread(orders.confidence(drafts), predicted, -torch.inf),
        "masked": hidden,
        "count": torch.ones(1, dtype=torch.long),
        "writable": torch.ones(1, W, dtype=torch.bool),
        "held": torch.ones(1, W, dtype=torch.float64),
        "uniforms": torch.full((1, W), 0.5, dtype=torch.float64),
        "index": 0,
        "steps": W,
        "canvas": torch.zeros(1, W, dtype=torch.long),
        "block": slice(0, W),
    }
    return Step(**given | fields)


def shown(reveal: Reveal, step: Step) -> list[int]:
    return reveal(step)[0].nonzero()[:, 0].tolist()


def scored(*scores: float, **fields) -> Step:
    return step_of([[0.5, 0.5]] * len(scores), score=torch.tensor([scores], dtype=torch.float64), **fields)


def run(predict, canvas: Tensor, mask: int, **options) -> list[State]:
    return list(denoise(lambda c, block: predict(c)[:, block], canvas, mask, **options))


def blank(bed: Bed = BED, rows: int = 1) -> Tensor:
    return torch.full((rows, bed.length), bed.mask)


def table(seed: int, length: int = 8, vocab: int = 6):
    """A predictor that looks at the whole canvas: hashed logits, the last token is [MASK]."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(length, vocab, length, vocab, generator=generator, dtype=torch.float64)
    return lambda c: torch.einsum("biu,iujv->bjv", torch.nn.functional.one_hot(c, vocab).double(), weights)


# Orders


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


@pytest.mark.parametrize("frequencies", [[-1.0, 2.0], [0.0, 0.0], [[1.0], [2.0]], [float("nan"), 1.0]])
def test_b5_impossible_frequencies_are_refused(frequencies):
    with pytest.raises(ValueError, match="frequencies must be one number >= 0 per token, not all of them 0"):
        orders.position_calibrated(torch.tensor(frequencies))


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


# Draws


def reference_nucleus(p: list[float], top_p: float) -> set[int]:
    """The fewest likeliest tokens, of equal ones the lowest ids, that have so much probability; written by hand."""
    kept: list[int] = []
    for token in sorted(range(len(p)), key=lambda i: (-p[i], i)):
        if math.fsum(p[i] for i in kept) >= top_p:
            break
        kept.append(token)
    return set(kept)


@pytest.mark.parametrize("top_p", [0.01, 0.25, 0.5, 0.51, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("p", [(0.5, 0.25, 0.25), (0.25, 0.25, 0.25, 0.25), (0.125, 0.5, 0.125, 0.25), (0.0, 1.0)])
def test_top_p_keeps_the_fewest_likeliest_tokens(p, top_p):
    logits = torch.tensor([p], dtype=torch.float64).log()
    kept = truncated(logits, top_p=top_p)[0].isfinite().nonzero()[:, 0].tolist()
    assert set(kept) == {i for i in reference_nucleus(list(p), top_p) if p[i] > 0}


@pytest.mark.parametrize("top_k", [1, 2, 3, 9])
def test_top_k_keeps_so_many_and_of_equal_ones_the_lowest_ids(top_k):
    logits = torch.tensor([[0.0, 2.0, 2.0, 2.0, 1.0]])
    kept = truncated(logits, top_k=top_k)[0].isfinite().nonzero()[:, 0].tolist()
    assert kept == sorted([1, 2, 3, 4, 0][:top_k])


def test_top_p_of_one_changes_nothing_however_unlikely_a_token_is():
    logits = torch.tensor([[0.0, -50.0, -80.0]])
    assert torch.equal(truncated(logits, top_p=1.0), logits)


def test_top_p_looks_at_the_temperature_and_at_what_top_k_left():
    logits = torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64).log()
    assert truncated(logits, temperature=0.25, top_p=0.9)[0].isfinite().tolist() == [True, False, False]
    assert truncated(logits, top_p=0.85)[0].isfinite().tolist() == [True, True, False]
    assert truncated(logits, top_k=2, top_p=0.65)[0].isfinite().tolist() == [True, False, False]  # 0.6 of 0.9


def test_law_of_truncated_draws_is_the_renormalised_one():
    """On an equidistant grid of numbers, so without chance."""
    p = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    logits = p.log().expand(10_000, -1)
    for options, expected in (
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.85}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
    ):
        drawn = categorical(1.0, **options)(logits, grid)
        law = drawn.bincount(minlength=4) / 10_000
        assert law.tolist() == pytest.approx(expected, abs=2e-4)


# Counts


def test_cosine_counts_are_the_published_ones():
    assert cosine_counts(torch.tensor([32]), 8).tolist() == [[1, 2, 3, 4, 5, 5, 6, 6]]


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 16, 40])
def test_cosine_counts_reveal_everything_and_at_least_one_while_they_can(steps):
    for masks in range(33):
        counts = cosine_counts(torch.tensor([masks]), steps)[0].tolist()
        assert sum(counts) == masks
        assert all(count >= 1 for count in counts[: min(masks, steps)])


def test_given_counts_say_what_does_not_fit():
    with pytest.raises(ValueError, match=r"counts=\[2, 1\] are 2 steps, not 3"):
        given_counts([2, 1])(torch.tensor([3]), 3)
    with pytest.raises(ValueError, match=r"counts=\[2, 1\] reveal 3 tokens, fewer than are masked"):
        given_counts([2, 1])(torch.tensor([3, 4]), 2)
    with pytest.raises(ConfigError, match=r"counts=\[2, 1\] reveal 3 tokens, not the 4 of a block"):
        SamplerConfig(gen_length=8, block_length=4, counts=[2, 1])
    with pytest.raises(ConfigError, match="steps=8 contradicts the 2 counts of a block; leave steps out"):
        SamplerConfig(gen_length=8, block_length=4, counts=[3, 1], steps=8)
    assert SamplerConfig(gen_length=8, block_length=4, counts=[3, 1], steps=4).steps_per_block == 2


# Reveals


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


def leave_one_out(bed: Bed):
    """Every token as the oracle sees it from all others."""

    def predict(canvas: Tensor, block: slice) -> Tensor:
        one_out = [torch.where(torch.arange(bed.length) == i, bed.mask, canvas) for i in range(bed.length)]
        return torch.stack([bed.oracle(one)[:, i] for i, one in enumerate(one_out)], dim=1)[:, block]

    return predict


@pytest.mark.parametrize("eta", [2.0, 3.0, 4.0])
def test_t24_path_planning_by_leave_one_out_masks_again_as_published(eta):
    rule = reveals.p2(eta, planner=suppressed(leave_one_out(BED), [BED.mask]))
    path = [s.canvas[0].tolist() for s in run(BED.oracle, blank(), BED.mask, steps=3, reveal=rule)]
    assert path == [[3, 2, 3], [2, 3, 1], [2, 2, 1]]
    assert run(BED.oracle, blank(), BED.mask, steps=6, reveal=rule)[-1].canvas.tolist() == [[2, 2, 2]]


class Asked(Predictor):
    """The predictions of a table, one row of the batch apart from the other, and the positions they are asked for."""

    def __init__(self, seed: int, asked: list[Tensor] | None = None, rows: Tensor | None = None):
        self.seed, self.asked, self.rows = seed, [] if asked is None else asked, rows

    def at(self, canvas: Tensor, block: slice, wanted: Tensor) -> Tensor:
        self.asked.append(wanted.clone())
        row = torch.arange(len(canvas)) if self.rows is None else self.rows
        return (table(self.seed)(canvas) + row[:, None, None] * table(self.seed + 1)(canvas))[:, block][wanted]

    def of_rows(self, rows: Tensor) -> "Asked":
        return Asked(self.seed, self.asked, rows if self.rows is None else self.rows[rows])


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


def drawn(uniforms_seed: int = 0, **options) -> list[State]:
    canvas = torch.full((4, 8), 5)
    return run(table(8), canvas, 5, draft=categorical(1.0), uniforms=row_uniforms(uniforms_seed, canvas), **options)


@pytest.mark.parametrize("variant", ["cap", "rescale", "conf"])
def test_b16_remasking_with_probability_zero_is_ancestral_sampling(variant):
    ours = drawn(steps=6, reveal=reveals.remdm(variant, 0.0))
    usual = drawn(steps=6, reveal=reveals.ancestral)
    assert len(ours) == 6
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=False))


def test_b16_loop_without_remasking_is_ancestral_along_its_schedule():
    def mask_probability(time: float) -> float:  # section 4.2 with the default values
        return 1 - (1 - time) * 0.9 / 0.45 if time > 0.55 else 0.1 if time > 0.05 else time * 0.1 / 0.05

    ours = drawn(steps=20, reveal=reveals.remdm("loop", 0.0))
    usual = drawn(steps=20, reveal=reveals.ancestral_steps(mask_probability))
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=False))


@pytest.mark.parametrize("variant", ["cap", "rescale", "conf", "loop"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 24])
def test_b16_remasking_ends_without_masks(variant, steps):
    for seed in range(5):
        states = drawn(seed, steps=steps, reveal=reveals.remdm(variant, 1.0))
        assert len(states) == steps
        assert not (states[-1].canvas == 5).any()


def test_b16_loop_masks_again_between_its_times_only():
    seen = {}
    for seed in range(20):
        states = drawn(seed, steps=40, reveal=reveals.remdm("loop", 0.3))
        for before, after in pairwise(states):
            again = bool(((before.canvas != 5) & (after.canvas == 5)).any())
            seen[after.index] = seen.get(after.index, False) or again
    phases = [index for index, again in seen.items() if again]
    assert min(phases) == 18  # t = 1 - 18/40 = t_on; before it nothing is masked again
    assert max(phases) < 38  # t_off = 1 - 38/40


def test_b16_conf_prefers_to_mask_what_was_revealed_with_a_low_probability():
    """The share of position i is softmax(-held): a sweep of the uniform number finds each one's bound."""
    held = torch.tensor([[0.1, 0.9, 0.5, 1.0]], dtype=torch.float64)
    p, masked = [[0.6, 0.4]] * 4, [False, False, False, True]
    bounds = torch.zeros(4)
    for u in (torch.arange(2000) + 0.5) / 2000:
        step = step_of(p, masked, held=held, index=1, steps=4, uniforms=torch.full((1, 4), float(u)).double())
        bounds += ~reveals.remdm("conf", 1.0)(step)[0] / 2000
    share = (-held[0, :3]).softmax(dim=0)
    assert bounds[:3].tolist() == pytest.approx(share.tolist(), abs=1e-3)  # sigma_max is 1 here
    assert float(bounds[3]) == pytest.approx(1 - (0.5 - 0.25) / 0.75, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "rescale", "eta": 1.5}, "eta=1.5 must be at most 1"),
        ({"variant": "loop", "t_on": 0.1, "t_off": 0.5}, "t_off=0.5 < t_on=0.1 and alpha_on=0.9 must lie between"),
        ({"variant": "loop", "t_on": 1.0}, "must lie between 0 and 1"),
        ({"variant": "loop", "alpha_on": 1.0}, "must lie between 0 and 1"),
    ],
)
def test_impossible_remasking_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        reveals.remdm(**values)
    named = {"remask" if key == "variant" else key: value for key, value in values.items()}
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(reveal="remdm", **named)


def test_b15_gibbs_fills_then_draws_again_while_steps_are_left():
    states = drawn(steps=12, order=orders.random, reveal=reveals.gibbs(1))
    masked = [int((s.canvas[0] == 5).sum()) for s in states]
    assert masked == [7, 6, 5, 4, 3, 2, 1, 1, 1, 1, 1, 0]
    states = drawn(steps=13, order=orders.random, reveal=reveals.gibbs(2))
    assert [int((s.canvas[0] == 5).sum()) for s in states] == [7, 6, 5, 4, 3, 2, 1, 2, 1, 2, 1, 0]  # one step is left


# Edits


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


# Early exit


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


# What a step predicts


def starts(canvas: Tensor, states: list[State]) -> list[Tensor]:
    """The window of each step before it."""
    befores = [canvas, *(state.canvas for state in states[:-1])]
    return [before[:, state.block] for before, state in zip(befores, states, strict=True)]


@pytest.mark.parametrize(
    ("options", "everywhere"),
    [
        ({}, False),
        ({"steps": 3, "reveal": reveals.mask_predict}, False),
        ({"steps": 12, "reveal": reveals.gibbs(2)}, False),
        ({"steps": 9, "reveal": reveals.remdm("rescale", 1.0)}, False),
        ({"reveal": reveals.klass(0.5, 0.5, 1)}, False),
        ({"reveal": Rule(reveals.threshold(0.5), everywhere=True)}, True),
        ({"steps": 6, "reveal": reveals.p2(2.0)}, True),
        ({"steps": 6, "reveal": reveals.early_exit(reveals.p2(2.0))}, True),
        ({"reveal": reveals.threshold(0.5), "edit": replacing(0.4, 3)}, True),
        ({"steps": 4, "stop_token_id": 4}, False),
    ],
    ids=["top_k", "mask_predict", "gibbs", "remdm", "klass", "everywhere", "p2", "early p2", "edit", "stop"],
)
def test_predictions_are_asked_for_masks_and_for_writable_tokens_where_the_rule_looks_at_them(options, everywhere):
    canvas = torch.full((4, 8), 5)
    canvas[1, 3:] = 0
    canvas[2, ::2] = 1
    canvas[3] = 2
    writable = canvas == 5
    writable[1, 3:5] = True  # a given token that may be written
    predict, blocks = Asked(3), [slice(0, 5), slice(5, 8)]
    states = list(denoise(predict, canvas, 5, blocks=blocks, draft=categorical(1.0), writable=writable, **options))
    assert not (states[-1].canvas == 5).any()
    expected = []
    for state, present in zip(states, starts(canvas, states), strict=True):
        masked, free = present == 5, writable[:, state.block]
        asked = (masked | free if everywhere else masked) & state.active[:, None]
        assert torch.equal(state.draft[~asked], present[~asked])
        assert (state.score[~asked] == -torch.inf).all()
        assert (state.probability[~asked] == 1).all()
        assert (state.score[asked] > -torch.inf).all()
        expected.append((asked, bool((asked & ~masked).any())))
    assert any(visible for _, visible in expected) == everywhere
    needed = [asked for asked, _ in expected if asked.any()]  # none where a rule goes on and nothing is masked
    assert not any(asked[3].any() for asked in needed)  # a row in which nothing is to be done
    for asked, mine in zip([asked for asked in predict.asked if asked.any()], needed, strict=True):
        assert torch.equal(asked, mine)


def test_drafts_that_an_order_is_shown_are_those_of_the_predicted_positions():
    canvas = torch.full((3, 8), 5)
    canvas[0, 2:] = 1
    canvas[1, ::3] = 0
    shown_to_order: list[Drafts] = []

    def watching(drafts: Drafts) -> Tensor:
        shown_to_order.append(drafts)
        return orders.random(drafts)

    predict = Asked(3)
    uniforms = row_uniforms(4, canvas)
    states = list(denoise(predict, canvas, 5, blocks=[slice(1, 8)], order=watching, uniforms=uniforms))
    for turn, (state, drafts, asked) in enumerate(zip(states, shown_to_order, predict.asked, strict=True)):
        row, place = asked.nonzero(as_tuple=True)
        assert drafts.width == 7
        assert torch.equal(drafts.place, place)
        assert torch.equal(drafts.token, state.draft[row, place])
        assert torch.equal(drafts.uniforms, uniforms(state.block, turn, Stream.ORDER)[row, place])
        assert torch.equal(drafts.uniforms, state.score[row, place])
        assert (drafts.logits[:, 5] == -torch.inf).all()  # [MASK] is no draft
        assert torch.equal(orders.confidence(drafts), state.probability[row, place])


RULES: dict[str, dict] = {
    "top_k": {"reveal": reveals.top_k},
    "threshold": {"reveal": reveals.threshold(0.5)},
    "factor": {"reveal": reveals.factor(1.2)},
    "entropy bound": {"reveal": reveals.entropy_bound(0.8)},
    "klass": {"reveal": reveals.klass(0.5, 1.0, 2)},
    "ancestral": {"reveal": reveals.ancestral, "steps": 6},
    "mask_predict": {"reveal": reveals.mask_predict, "steps": 5},
    "p2": {"reveal": reveals.p2(2.0), "steps": 6},
    "remdm": {"reveal": reveals.remdm("rescale", 0.5), "steps": 8},
    "remdm, conf": {"reveal": reveals.remdm("conf", 1.0), "steps": 8},
    "gibbs": {"reveal": reveals.gibbs(2), "steps": 14},
    "early exit": {"reveal": reveals.early_exit(reveals.top_k, (3.0, 2.0, 1.0)), "steps": 8},
    "early exit of klass": {"reveal": reveals.early_exit(reveals.klass(0.5, 1.0, 2), (3.0, 2.0, 1.0)), "steps": 8},
}


def ragged() -> Tensor:
    """Rows with one mask to eight."""
    canvas = torch.randint(0, 5, (5, 8), generator=torch.Generator().manual_seed(0))
    for row, masks in enumerate(([4], [0, 5], range(0, 8, 2), range(2, 8), range(8))):
        canvas[row, list(masks)] = 5
    return canvas


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_predictions_at_visible_positions_change_no_rule_that_does_not_ask_for_them(name, temperature):
    canvas, options = ragged(), {"draft": draft_at(temperature), **RULES[name]}
    rule = options.pop("reveal")
    rule = rule if isinstance(rule, Rule) else Rule(rule)
    usual = run(table(6), canvas, 5, reveal=rule, **options)
    more = run(table(6), canvas, 5, reveal=replace(rule, everywhere=True), **options)
    assert len(usual) == len(more)
    for a, b in zip(usual, more, strict=True):
        for part in ("canvas", "draft", "probability", "visible"):
            assert torch.equal(getattr(a, part), getattr(b, part)), part


@pytest.mark.parametrize("name", RULES)
def test_masks_that_may_not_be_written_stay_and_no_token_is_predicted_for_them(name):
    canvas, predict = ragged(), Asked(3)
    writable = canvas == 5
    writable[:, 4:6] = False
    states = list(denoise(predict, canvas, 5, writable=writable, **RULES[name]))
    for state in states:
        assert torch.equal(state.canvas[~writable], canvas[~writable])
    assert torch.equal(states[-1].canvas == 5, (canvas == 5) & ~writable)
    assert not any((asked & ~writable).any() for asked in predict.asked)
    assert not any(state.active[0] for state in states)  # its only mask is one of these


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_of_a_rule_do_not_depend_on_their_neighbours(name, temperature):
    canvas, options = ragged(), {"steps": 8, "draft": draft_at(temperature), **RULES[name]}
    together = run(table(6), canvas, 5, uniforms=row_uniforms(3, canvas), **options)
    for i in range(len(canvas)):
        alone = run(table(6), canvas[i : i + 1], 5, uniforms=row_uniforms(3, canvas[i : i + 1], i), **options)
        predicted = [state for state in alone if state.active[0]]
        taken = [state for state in together if state.active[i]]
        assert len(taken) == len(predicted)
        assert torch.equal(together[-1].canvas[i], alone[-1].canvas[0])
        for a, b in zip(predicted, taken, strict=True):
            for part in ("canvas", "draft", "score", "probability", "visible"):
                assert torch.equal(getattr(a, part)[0], getattr(b, part)[i]), part


@pytest.mark.parametrize(
    "rule",
    [
        reveals.top_k,
        reveals.threshold(0.9),
        reveals.factor(0.1),
        reveals.entropy_bound(0.1),
        reveals.klass(0.8, 0.1, 1),
        reveals.early_exit(reveals.klass(0.8, 0.1, 1), (9.0, 9.0, 9.0)),
    ],
    ids=["top_k", "threshold", "factor", "entropy bound", "klass", "early klass"],
)
def test_rows_that_ran_out_of_steps_keep_their_masks_while_others_are_edited(rule):
    canvas = ragged()
    options = {"steps": 3, "reveal": rule, "edit": replacing(0.3, extra_steps=4)}
    options["counts"] = lambda masks, steps: torch.ones(len(masks), steps, dtype=torch.long)
    together = run(table(6), canvas, 5, **options)
    assert len(together) > 3
    left = (together[2].canvas == 5).any(dim=1)
    assert 0 < left.sum() < 5
    for state, present in list(zip(together, starts(canvas, together), strict=True))[3:]:
        assert not state.active[left].any()
        assert torch.equal(state.canvas[left], present[left])
        assert torch.equal(state.draft[left], present[left])
        assert (state.probability[left] == 1).all()
    for i in range(5):
        alone = run(table(6), canvas[i : i + 1], 5, **options)
        assert torch.equal(alone[-1].canvas[0], together[-1].canvas[i])


# Half precision


@pytest.mark.parametrize("order", [orders.confidence, orders.max_probability, orders.margin, orders.entropy])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_ordered_by_probabilities_that_it_cannot_hold(order, dtype):
    logits = torch.tensor([[[8.0, 0.0, 0.0], [8.125, 0.0, 0.0], [8.0625, 0.0, 0.0]]], dtype=dtype)  # held exactly
    assert (logits.softmax(dim=-1)[..., 0] == logits.softmax(dim=-1)[..., :1, 0]).all()  # in half precision a tie
    states = list(denoise(lambda canvas, block: logits[:, block], torch.full((1, 3), 2), 2, order=order))
    assert [state.canvas[0].tolist() for state in states] == [[2, 0, 2], [2, 0, 0], [0, 0, 0]]
    assert all(state.score.dtype == torch.float32 for state in states)
    exact = 1 / (1 + torch.tensor([8.0, 8.125, 8.0625], dtype=torch.float64).neg().exp())
    assert torch.allclose(states[0].probability[0], exact, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_thresholds_are_not_met_by_rounding(dtype):
    logits = torch.tensor([[[6.0, 0.0, 0.0], [8.5, 0.0, 0.0], [6.0, 0.0, 0.0]]], dtype=dtype)  # 0.9975 and 0.9998
    rule = reveals.threshold(0.9996)
    state = next(denoise(lambda canvas, block: logits[:, block], torch.full((1, 3), 2), 2, reveal=rule))
    assert state.visible.tolist() == [[False, True, False]]
    state = next(
        denoise(lambda canvas, block: logits[:, block], torch.full((1, 3), 2), 2, reveal=reveals.threshold(0.9974))
    )
    assert state.visible.all()


def test_logits_of_float64_are_not_rounded():
    logits = torch.tensor([[[1.0, 0.0, 0.0], [1.0 + 1e-12, 0.0, 0.0]]], dtype=torch.float64)
    state = next(denoise(lambda canvas, block: logits[:, block], torch.full((1, 2), 2), 2))
    assert state.visible.tolist() == [[False, True]]


# Options that cannot act


EXTRA: dict[str, dict] = {"remdm": {"remask": "cap"}, "threshold": {"threshold": 0.9}, "factor": {"factor": 1.0},
                          "entropy_bound": {"entropy_bound": 0.1}, "gibbs": {"steps": 200}}  # fmt: skip
VALUES = {"threshold": 0.5, "factor": 1.0, "entropy_bound": 0.1, "kl_threshold": 0.1, "history": 1, "remask": "cap",
          "eta": 0.5, "t_on": 0.5, "t_off": 0.1, "alpha_on": 0.8, "resample": 1, "background": "counts.json",
          "position_decay": 0.1}  # fmt: skip


def test_every_field_of_a_rule_has_a_value_here():
    entries = (*ORDERS.values(), *REVEALS.values())
    assert {field for entry in entries for field in entry.fields} == set(VALUES)


@pytest.mark.parametrize("reveal", REVEALS)
@pytest.mark.parametrize("field", VALUES)
def test_field_of_another_rule_is_refused(reveal, field):
    values = {"reveal": reveal, **EXTRA.get(reveal, {})}
    assert isinstance(SamplerConfig(**values), SamplerConfig)
    if field not in REVEALS[reveal].fields:
        with pytest.raises(ConfigError, match=f"{field} has no effect with order: confidence and reveal: {reveal}"):
            SamplerConfig(**values, **{field: VALUES[field]})


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "position_calibrated"])
@pytest.mark.parametrize("field", ["background", "position_decay"])
def test_field_of_another_order_is_refused(order, field):
    with pytest.raises(ConfigError, match=f"{field} has no effect with order: {order} and reveal: top_k; remove it"):
        SamplerConfig(order=order, **{field: VALUES[field]})


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name, entry in REVEALS.items() for field in entry.required],
)
def test_rule_without_its_number_is_refused(name, field):
    with pytest.raises(ConfigError, match=f"reveal: {name} needs {field}"):
        SamplerConfig(reveal=name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_p": 0.9}, "top_k and top_p have no effect at temperature 0"),
        ({"top_k": 5}, "top_k and top_p have no effect at temperature 0"),
        ({"counts": "cosine"}, "counts: cosine has no effect without steps"),
        ({"guidance": "adaptive"}, "guidance has no effect with cfg_scale: 0; set cfg_scale"),
        ({"guidance": "prompt"}, "guidance has no effect with cfg_scale: 0; set cfg_scale"),
        ({"cfg_scale": 1.0, "guidance_share": 0.5}, "guidance_share has no effect without guidance: adaptive"),
        ({"reveal": "threshold", "threshold": 0.9, "steps": 8}, "steps has no effect with reveal: threshold"),
        ({"reveal": "factor", "factor": 1.0, "steps": 8}, "steps has no effect with reveal: factor"),
        ({"reveal": "entropy_bound", "entropy_bound": 0.1, "steps": 8}, "steps has no effect with reveal: entropy"),
        ({"reveal": "ancestral", "counts": "even"}, "counts has no effect with reveal: ancestral"),
        ({"reveal": "p2", "counts": "cosine", "steps": 8}, "counts has no effect with reveal: p2"),
        ({"reveal": "ancestral", "order": "random"}, "order and eos_last have no effect with reveal: ancestral"),
        ({"reveal": "mask_predict", "eos_last": True}, "order and eos_last have no effect with reveal: mask_predict"),
        (
            {"reveal": "threshold", "threshold": 0.9, "order": "entropy"},
            "those of order: entropy are none; known: conf",
        ),
        ({"reveal": "factor", "factor": 1.0, "order": "random"}, "compares scores with a probability"),
        (
            {"reveal": "remdm", "remask": "cap", "t_on": 0.5},
            "t_on, t_off and alpha_on have no effect without remask: l",
        ),
        ({"reveal": "p2", "early_exit": True}, "early_exit, stop_at_eos and edit_threshold do not go with reveal: p2"),
        ({"reveal": "gibbs", "steps": 200, "stop_at_eos": True}, "do not go with reveal: gibbs, which may mask any"),
        ({"reveal": "mask_predict", "edit_threshold": 0.5}, "do not go with reveal: mask_predict"),
        ({"edit_steps": 4}, "edit_steps has no effect without edit_threshold"),
        ({"forbid_eos": True, "stop_at_eos": True}, "stop_at_eos has no effect with forbid_eos"),
        ({"reveal": "gibbs", "steps": 12, "gen_length": 16}, "steps=12 gives 12 to a block of 16 masks; gibbs"),
        ({"threshold": -0.1, "reveal": "threshold"}, "threshold: .* greater than or equal to 0"),
        ({"top_p": 1.5, "temperature": 1.0}, "top_p: .* less than or equal to 1"),
        ({"reveal": "remdm", "remask": "often"}, "remask: .*'cap', 'rescale', 'conf' or 'loop'"),
    ],
)
def test_option_that_cannot_act_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        SamplerConfig(**values)


def test_background_is_read_and_used(tmp_path):
    file = tmp_path / "counts.json"
    file.write_text(json.dumps([1, 9]))
    order = SamplerConfig(order="position_calibrated", background=str(file), position_decay=0.0).make_order()
    drafts = drafts_of(torch.zeros(2, 2, dtype=torch.float64), [0, 1])
    assert order(drafts).exp().tolist() == pytest.approx([math.log(10) / 2, math.log(10 / 9) / 2])


def test_fields_reach_what_the_loop_is_asked_for():
    assert SamplerConfig().make_edit() is None
    assert SamplerConfig(edit_threshold=0.5).make_edit().extra_steps == 16
    for extra_steps in (0, 3):
        assert SamplerConfig(edit_threshold=0.5, edit_steps=extra_steps).make_edit().extra_steps == extra_steps
    for fields, traits in (
        ({"reveal": "klass"}, {"lookback": 2}),
        ({"reveal": "klass", "history": 5}, {"lookback": 5}),
        ({"reveal": "klass", "history": 5, "early_exit": True}, {"lookback": 5}),
        ({"reveal": "remdm", "remask": "loop"}, {"every_step": True}),
        ({"reveal": "p2"}, {"everywhere": True}),
    ):
        rule = SamplerConfig(**fields).make_reveal()
        usual = {"everywhere": False, "every_step": False, "lookback": 0}
        assert {name: getattr(rule, name) for name in usual} == usual | traits
