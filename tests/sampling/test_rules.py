"""The rules of the samplers one by one: published vectors, reductions to each other, and every refusal."""

import json
import math
from itertools import pairwise

import pytest
import torch
from bed import BED, Bed
from torch import Tensor

from llada.config import ConfigError
from llada.sampling import orders, reveals
from llada.sampling.denoise import State, denoise, row_uniforms
from llada.sampling.drafts import categorical, replacing, truncated
from llada.sampling.generate import SamplerConfig
from llada.sampling.orders import ORDERS
from llada.sampling.predictors import suppressed
from llada.sampling.reveals import REVEALS, Reveal, Step
from llada.sampling.schedules import cosine_counts, given_counts

VECTORS = {"A": (0.5, 0.49, 0.01), "B": (0.45, 0.30, 0.25), "C": (0.6, 0.2, 0.2), "D": (0.55, 0.45, 0.0)}
NONE = torch.zeros(1, 4, dtype=torch.float64)


def step_of(p: list, masked: list[bool] | None = None, **fields) -> Step:
    """A step of one row with the given probabilities (W, V), greedy drafts and their confidence as scores."""
    logits = torch.tensor([p], dtype=torch.float64).log()
    draft = logits.argmax(dim=-1)
    W = draft.shape[1]
    given = {
        "logits": logits,
        "draft": draft,
        "score": orders.confidence(logits, draft, NONE),
        "masked": torch.ones(1, W, dtype=torch.bool) if masked is None else torch.tensor([masked]),
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
    logits = torch.tensor([[VECTORS[name]]], dtype=torch.float64).log()
    draft = torch.tensor([[2]])  # the least likely token: none of them looks at it
    assert float(orders.max_probability(logits, draft, NONE)) == pytest.approx(best, abs=1e-12)
    assert float(orders.margin(logits, draft, NONE)) == pytest.approx(gap, abs=1e-12)
    assert float(orders.entropy(logits, draft, NONE)) == pytest.approx(-nats, abs=1e-6)
    assert float(orders.confidence(logits, draft, NONE)) == pytest.approx(VECTORS[name][2], abs=1e-12)


@pytest.mark.parametrize(
    ("pair", "order", "first"),
    [
        *[("CD", orders.max_probability, "C"), ("CD", orders.margin, "C"), ("CD", orders.entropy, "D")],
        *[("AB", orders.max_probability, "A"), ("AB", orders.margin, "B"), ("AB", orders.entropy, "A")],
    ],
)
def test_b4_orders_disagree_as_published(pair, order, first):
    logits = torch.tensor([[VECTORS[name] for name in pair]], dtype=torch.float64).log()
    assert pair[int(order(logits, torch.zeros(1, 2).long(), NONE).argmax())] == first


def test_b5_without_decay_and_with_a_constant_background_it_is_confidence_times_a_constant():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draft = logits.argmax(dim=-1)
    score = orders.position_calibrated(torch.full((5,), 3.0), decay=0.0)(logits, draft, NONE)
    assert torch.allclose(score, orders.confidence(logits, draft, NONE) * math.log(5))


def test_b5_surprise_is_capped_and_early_positions_come_first():
    p = [[0.9, 0.1]] * 3
    logits = torch.tensor([p], dtype=torch.float64).log()
    draft = torch.tensor([[0, 1, 0]])
    frequencies = torch.tensor([1.0, math.exp(20) - 1], dtype=torch.float64)  # information 20 and about 0
    score = orders.position_calibrated(frequencies, decay=0.5, cap=10.0)(logits, draft, NONE)[0]
    assert score[[0, 2]].tolist() == pytest.approx([10.0, 10 * math.exp(-1)])
    assert float(score[1]) < 1e-8
    uncapped = orders.position_calibrated(frequencies, decay=0.5, cap=100.0)(logits, draft, NONE)[0]
    assert float(uncapped[0]) == pytest.approx(18.0)


def test_b5_tokens_that_the_corpus_lacks_count_as_its_rarest():
    logits = torch.zeros(1, 3, 3, dtype=torch.float64)
    order = orders.position_calibrated(torch.tensor([0.0, 1.0, 9.0]), decay=0.0)
    score = order(logits, torch.tensor([[0, 1, 2]]), NONE)[0]
    assert score.tolist() == pytest.approx([math.log(10) / 3, math.log(10) / 3, math.log(10 / 9) / 3])


def test_b5_late_positions_of_a_long_window_still_differ():
    """With float32 weights exp(-0.25 i) is 0 from i = 420 on, and the rest would go from left to right."""
    logits = torch.zeros(1, 1000, 3)
    logits[0, 901, 0] = 9.0
    score = orders.position_calibrated(torch.ones(3))(logits, torch.zeros(1, 1000).long(), NONE)[0]
    assert float(score[901]) > float(score[900]) > float(score[902]) > 0


@pytest.mark.parametrize("frequencies", [[-1.0, 2.0], [0.0, 0.0], [[1.0], [2.0]], [float("nan"), 1.0]])
def test_b5_impossible_frequencies_are_refused(frequencies):
    with pytest.raises(ValueError, match="frequencies must be one number >= 0 per token, not all of them 0"):
        orders.position_calibrated(torch.tensor(frequencies))


def test_b5_a_background_of_another_vocabulary_is_refused():
    order = orders.position_calibrated(torch.ones(3))
    with pytest.raises(ValueError, match="frequencies of 3 tokens do not fit a vocabulary of 4"):
        order(torch.zeros(1, 1, 4), torch.zeros(1, 1).long(), NONE)


@pytest.mark.parametrize("positions", [[0, 0, 1], [1, 2, 3], [0, 2]])
def test_permutation_must_name_every_position_once(positions):
    with pytest.raises(ValueError, match=r"must name each of 0\.\.\d once"):
        orders.permutation(positions)


def test_permutation_must_fit_the_window():
    with pytest.raises(ValueError, match="an order of 2 positions does not fit a window of 3"):
        orders.permutation([1, 0])(torch.zeros(1, 3, 2), torch.zeros(1, 3).long(), NONE)


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
    grid = ((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000)[None]
    logits = p.log().expand(1, 10_000, -1)
    for options, expected in (
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.85}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
    ):
        drawn = categorical(1.0, **options)(logits, torch.ones(1, 10_000, dtype=torch.bool), grid)
        law = drawn[0].bincount(minlength=4) / 10_000
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
        step = step_of(p)
        step = step_of(p, score=order(step.logits, step.draft, NONE))
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
    step = step_of([[0.34, 0.33, 0.33], [0.98, 0.01, 0.01], [0.9, 0.05, 0.05]], [False, False, True], held=held,
                   index=1, steps=3)  # fmt: skip
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
    ours = run(table(3), torch.full((3, 8), 5), 5, reveal=reveals.klass(minimum=1.01), lookback=2, **options)
    usual = run(table(3), torch.full((3, 8), 5), 5, **options)
    assert len(ours) == len(usual)
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=True))


def test_b12_history_ends_with_the_block_and_holds_no_more_than_asked():
    lengths, nested = [], []

    def watching(step: Step) -> Tensor:
        lengths.append((step.index, len(step.earlier)))
        nested.extend(len(one.earlier) for one in step.earlier)
        return reveals.top_k(step)

    run(table(4), torch.full((1, 8), 5), 5, blocks=[slice(0, 4), slice(4, 8)], reveal=watching, lookback=2)
    assert lengths == [(0, 0), (1, 1), (2, 2), (3, 2)] * 2
    assert set(nested) == {0}  # or all predictions of a block would stay in memory


def test_b12_rows_that_finish_leave_the_history_of_the_others_alone():
    canvas = torch.full((3, 8), 5)
    canvas[0, 1:] = 0
    canvas[1, 4:] = 1
    options = {"reveal": reveals.klass(0.5, 0.5, 1), "lookback": 1}
    together = run(table(5), canvas, 5, **options)[-1].canvas
    alone = [run(table(5), canvas[i : i + 1], 5, **options)[-1].canvas[0] for i in range(3)]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("seed", range(5))
def test_klass_finishes_in_its_steps_whatever_settles(seed):
    states = run(table(seed), torch.full((2, 8), 5), 5, steps=4, reveal=reveals.klass(0.3, 5.0, 1), lookback=1)
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


def test_planner_of_a_batch_sees_the_rows_that_go_on():
    """Rows with fewer masks are finished earlier; the planner's own rows are narrowed with the canvas."""
    canvas = torch.full((2, 8), 5)
    canvas[0, 2:] = 1

    class Planner:
        def __init__(self, rows: Tensor):
            self.rows = rows

        def __call__(self, canvas: Tensor, block: slice) -> Tensor:
            assert len(canvas) == len(self.rows)
            return table(7)(canvas)[:, block]

        def of_rows(self, rows: Tensor) -> "Planner":
            return Planner(self.rows[rows])

    rule = reveals.p2(1.0, planner=Planner(torch.arange(2)))
    assert not (run(table(7), canvas, 5, steps=8, reveal=rule)[-1].canvas == 5).any()


def drawn(uniforms_seed: int = 0, **options) -> list[State]:
    canvas = torch.full((4, 8), 5)
    return run(table(8), canvas, 5, draft=categorical(1.0), uniforms=row_uniforms(uniforms_seed, canvas), **options)


@pytest.mark.parametrize("variant", ["cap", "rescale", "conf"])
def test_b16_remasking_with_probability_zero_is_ancestral_sampling(variant):
    ours = drawn(steps=6, reveal=reveals.remdm(variant, 0.0), every_step=True)
    usual = drawn(steps=6, reveal=reveals.ancestral)
    assert len(ours) == 6
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=False))


def test_b16_loop_without_remasking_is_ancestral_along_its_schedule():
    def mask_probability(time: float) -> float:  # section 4.2 with the default values
        return 1 - (1 - time) * 0.9 / 0.45 if time > 0.55 else 0.1 if time > 0.05 else time * 0.1 / 0.05

    ours = drawn(steps=20, reveal=reveals.remdm("loop", 0.0), every_step=True)
    usual = drawn(steps=20, reveal=reveals.ancestral_steps(mask_probability))
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(ours, usual, strict=False))


@pytest.mark.parametrize("variant", ["cap", "rescale", "conf", "loop"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 24])
def test_b16_remasking_ends_without_masks(variant, steps):
    for seed in range(5):
        states = drawn(seed, steps=steps, reveal=reveals.remdm(variant, 1.0), every_step=True)
        assert len(states) == steps
        assert not (states[-1].canvas == 5).any()


def test_b16_loop_masks_again_between_its_times_only():
    seen = {}
    for seed in range(20):
        states = drawn(seed, steps=40, reveal=reveals.remdm("loop", 0.3), every_step=True)
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
    canvas: list[int], threshold: float, edit_steps: int, bed: Bed = TWO, writable=None, **options
) -> list[State]:
    start = torch.tensor([canvas])
    everything = torch.ones_like(start, dtype=torch.bool) if writable is None else torch.tensor([writable])
    predict = suppressed(leave_one_out(bed), [bed.mask])
    options = {"edit": replacing(threshold), "edit_steps": edit_steps, "writable": everything, **options}
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
    swapping = lambda logits, tokens, writable: (tokens + 1) % 5  # noqa: E731
    states = run(table(9), canvas, 5, reveal=reveals.threshold(0.0), edit=swapping, edit_steps=3)
    assert len(states) == 1 + 3


def test_b19_a_threshold_of_one_changes_nothing():
    canvas = torch.full((3, 8), 5)
    options = {"reveal": reveals.threshold(0.4), "uniforms": row_uniforms(0, canvas), "draft": categorical(0.7)}
    edited = run(table(10), canvas, 5, edit=replacing(1.0), edit_steps=16, **options)
    assert torch.equal(edited[-1].canvas, run(table(10), canvas, 5, **options)[-1].canvas)


def test_b19_edits_change_what_was_generated_and_nothing_else():
    canvas = torch.full((16, 8), 5)
    canvas[:, ::3] = torch.randint(0, 5, (16, 3), generator=torch.Generator().manual_seed(0))
    options = {"reveal": reveals.threshold(0.4), "uniforms": row_uniforms(0, canvas), "draft": categorical(1.5)}
    changed = False
    previous = canvas
    for state in run(table(11), canvas, 5, edit=replacing(0.3), edit_steps=16, **options):
        assert torch.equal(state.canvas[:, ::3], canvas[:, ::3])
        changed |= bool(((previous != 5) & (previous != state.canvas)).any())
        previous = state.canvas
    assert changed
    assert not (previous == 5).any()


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
    logits = torch.tensor([[[8.0, 0.0], [0.0, 4.0], [90.0, 0.0]]], dtype=torch.float64)  # mean gap 6 over two masks
    for index, leaves in ((0, False), (2, False), (3, True), (5, True), (6, True), (8, True)):
        step = step_of([[0.5, 0.5]] * 3, [True, True, False], logits=logits, index=index, steps=9)
        assert (len(shown(reveals.early_exit(reveals.top_k), step)) == 3) == leaves


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
        ({"reveal": "gibbs", "steps": 12, "gen_length": 16}, "steps=12: gibbs reveals one token in a step, so 16 are"),
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
    logits = torch.zeros(1, 2, 2, dtype=torch.float64)
    expected = [math.log(10) / 2, math.log(10 / 9) / 2]
    assert order(logits, torch.tensor([[0, 1]]), NONE)[0].tolist() == pytest.approx(expected)
