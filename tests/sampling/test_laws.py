"""Output laws of the samplers by exact enumeration (ids T13 to T24 of the specification)."""

import itertools
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from bed import BED, BEDS
from laws import chain, divergence, entropy, law, total_variation

from llada.sampling import orders, reveals
from llada.sampling.denoise import denoise
from llada.sampling.schedules import expected_divergence, given_counts, hitting_times, optimal_counts

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "bed.json").read_text())
STATE_ONLY = ["max_probability", "margin", "entropy", "left_to_right"]
PREDICTORS = pytest.mark.parametrize("predictor", ["oracle", "bad"])
ALL = pytest.mark.parametrize("name", BEDS)


def published_law(name: str) -> torch.Tensor:
    table = PUBLISHED[name].get("law", PUBLISHED[name])
    return torch.tensor([table["".join(map(str, x.tolist()))] for x in BED.sequences], dtype=torch.float64)


def sequential_law(bed, predictor: str, next_position) -> torch.Tensor:
    """The chain rule along an order that depends on what is visible, written down without the loop."""
    chances = []
    for x in bed.sequences:
        canvas, p = torch.full((1, bed.length), bed.mask), 1.0
        while (canvas == bed.mask).any():
            conditional = getattr(bed, predictor)(canvas)[0, :, : bed.vocab].softmax(dim=-1)
            i = next_position(conditional, canvas[0] == bed.mask)
            p *= float(conditional[i, x[i]])
            canvas[0, i] = x[i]
        chances.append(p)
    return torch.tensor(chances, dtype=torch.float64)


def best(score):
    """The masked position of highest score, of equal ones the leftmost."""

    def position(conditional: torch.Tensor, masked: torch.Tensor) -> int:
        values = [score(conditional[i]) if masked[i] else -math.inf for i in range(len(masked))]
        return values.index(max(values))

    return position


REFERENCES = {
    "max_probability": best(lambda p: round(float(p.max()), 12)),
    "margin": best(lambda p: round(float(p.topk(2).values.diff()[0].abs()), 12)),
    "entropy": best(lambda p: round(float((p * p.clamp(min=1e-300).log()).sum()), 12)),
    "left_to_right": lambda conditional, masked: int(masked.nonzero()[0]),
}


@pytest.mark.parametrize(
    ("counts", "variation"), [((3,), 0.1394565316), ((2, 1), 0.0395169881), ((1, 2), 0.0891056205), ((1, 1, 1), 0.0)]
)
def test_t13_random_order_with_fixed_counts_has_the_published_law(counts, variation):
    q, predictions = fixed(counts)
    assert predictions == pytest.approx(len(counts))
    assert total_variation(q, BED.p) == pytest.approx(variation, abs=1e-9)
    assert torch.allclose(q, published_law("random_fixed_" + "_".join(map(str, counts))), atol=1e-12)


def fixed(counts, bed=BED, predictor="oracle"):
    """Random order with the given counts. The chain runs one step at a time, each with its own count."""
    canvas, weight, predictions = None, None, 0.0
    for count in counts:
        one = partial(given_one, count)
        canvas, weight, n = chain(bed, getattr(bed, predictor), 1, begin=canvas, weights=weight, random_order=True,
                                  order=orders.random, counts=one)  # fmt: skip
        predictions += n
    return torch.zeros(bed.vocab**bed.length, dtype=torch.float64).index_add(0, bed.index(canvas), weight), predictions


def given_one(count: int, masks: torch.Tensor, steps: int) -> torch.Tensor:
    return torch.full((len(masks), 1), count)


def test_t13_two_steps_share_three_tokens_as_two_and_one():
    q, _ = law(BED, BED.oracle, 2, random_order=True, order=orders.random)
    assert torch.allclose(q, fixed((2, 1))[0], atol=1e-15)


def ancestral_chance(steps: int):
    return lambda index, masked, held: masked.double() / (steps - index)


@pytest.mark.parametrize(
    ("steps", "variation", "predictions"),
    [(1, 0.1394565, 1.0), (2, 0.0734036, 1.75), (3, 0.0498544, 2.1111), (6, 0.0254819, 2.5278)],
)
def test_t14_ancestral_sampling_is_a_multinomial_mixture_of_fixed_counts(steps, variation, predictions):
    q, _ = law(BED, BED.oracle, steps, event_probability=ancestral_chance(steps), reveal=reveals.ancestral)
    assert total_variation(q, BED.p) == pytest.approx(variation, abs=1e-6)
    mixture, nonempty = torch.zeros_like(q), 0.0
    for counts in itertools.product(range(4), repeat=steps):
        if sum(counts) == 3:
            p = math.factorial(3) / math.prod(map(math.factorial, counts)) / steps**3
            present = tuple(count for count in counts if count)
            mixture += p * fixed(present)[0]
            nonempty += p * len(present)
    assert torch.allclose(q, mixture, atol=1e-12)
    assert nonempty == pytest.approx(predictions, abs=1e-4)


@ALL
@pytest.mark.parametrize("order", ["random", *STATE_ONLY])
def test_t15_one_token_per_step_is_exact_in_every_order_that_does_not_see_the_draft(name, order):
    bed = BEDS[name]
    q, predictions = law(bed, bed.oracle, bed.length, random_order=order == "random", order=getattr(orders, order))
    assert predictions == pytest.approx(bed.length)
    assert torch.allclose(q, bed.p, atol=1e-12)


@ALL
@PREDICTORS
@pytest.mark.parametrize("order", STATE_ONLY)
def test_t15_one_token_per_step_has_the_chain_rule_law_of_its_order(name, predictor, order):
    bed = BEDS[name]
    q, _ = law(bed, getattr(bed, predictor), bed.length, order=rounded(getattr(orders, order)))
    assert torch.allclose(q, sequential_law(bed, predictor, REFERENCES[order]), atol=1e-12)


def rounded(order):
    """The order without the last digits, in which ties are decided by rounding."""
    return lambda drafts: (order(drafts) * 1e12).round()


@pytest.mark.parametrize(
    ("order", "kl"), [("max_probability", 0.1485794), ("margin", 0.1485794), ("entropy", 0.1478705)]
)
def test_b4_orders_of_an_inconsistent_predictor_miss_by_the_published_divergence(order, kl):
    q, _ = law(BED, BED.bad, 3, order=getattr(orders, order))
    assert float(q.sum()) == pytest.approx(1, abs=1e-12)
    assert divergence(BED.p, q) == pytest.approx(kl, abs=1e-6)


def test_t15_random_order_of_any_predictor_is_a_distribution_with_the_published_likelihoods():
    q, _ = law(BED, BED.bad, 3, random_order=True, order=orders.random)
    assert float(q.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.allclose(q, published_law("bad_random_order_ll").exp(), atol=1e-12)


@PREDICTORS
@pytest.mark.parametrize("positions", [(2, 0, 1), (1, 2, 0)])
def test_t15_given_permutation_has_its_chain_rule_law(predictor, positions):
    q, _ = law(BED, getattr(BED, predictor), 3, order=orders.permutation(positions))
    expected = sequential_law(BED, predictor, lambda _, masked: next(i for i in positions if masked[i]))
    assert torch.allclose(q, expected, atol=1e-12)


@ALL
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_t15_blocks_of_any_length_are_exact_with_one_token_per_step(name, cut):
    """Each block decoded one token at a time, positions to its right visible as [MASK]."""
    bed = BEDS[name]
    canvas = weight = None
    for start in range(0, bed.length, cut):
        block = slice(start, min(start + cut, bed.length))
        canvas, weight, _ = chain(bed, bed.oracle, block.stop - block.start, begin=canvas, weights=weight,
                                  blocks=[block], order=orders.margin)  # fmt: skip
    q = torch.zeros(bed.vocab**bed.length, dtype=torch.float64).index_add(0, bed.index(canvas), weight)
    assert torch.allclose(q, bed.p, atol=1e-12)


@pytest.mark.parametrize("first", range(3))
def test_t15_infilling_around_a_fixed_token_samples_the_conditional(first):
    canvas = torch.tensor([[BED.mask, first, BED.mask]])
    q, predictions = law(BED, BED.oracle, 2, begin=canvas, random_order=True, order=orders.random)
    given = BED.p * (BED.sequences[:, 1] == first)
    assert predictions == pytest.approx(2)
    assert torch.allclose(q, given / given.sum(), atol=1e-12)


def test_t16_low_confidence_at_temperature_one_is_biased_as_published():
    q, predictions = law(BED, BED.oracle, 3, order=orders.confidence)
    assert predictions == pytest.approx(3)
    assert total_variation(q, BED.p) == pytest.approx(0.3416738132, abs=1e-9)
    assert entropy(q) == pytest.approx(2.6077422616, abs=1e-9)
    assert torch.allclose(q, published_law("lowconf_T1_law_oracle"), atol=1e-12)


@pytest.mark.parametrize(
    ("counts", "value"), [((2, 1), 0.0148170530), ((1, 2), 0.0405416212), ((3,), 0.0701757272), ((1, 1, 1), 0.0)]
)
def test_t17_expected_divergence_of_counts_is_the_excess_of_the_loss_curve(counts, value):
    curve = [0.0, 1.029607231003069, 1.0701488522415736, 1.0849659052393474]
    assert expected_divergence(curve, counts) == pytest.approx(value, abs=1e-9)
    by_order = []
    for positions in itertools.permutations(range(3)):
        canvas = weight = None
        for count in counts:
            order = orders.permutation(positions)
            canvas, weight, _ = chain(BED, BED.oracle, 1, begin=canvas, weights=weight, order=order,
                                      counts=partial(given_one, count))  # fmt: skip
        q = torch.zeros(27, dtype=torch.float64).index_add(0, BED.index(canvas), weight)
        by_order.append(divergence(BED.p, q))
    assert sum(by_order) / 6 == pytest.approx(value, abs=1e-9)


def test_t17_optimal_counts_are_those_of_exhaustive_search():
    curve = [0.0, *(2 + math.exp(-(32 - m) / 4) for m in range(1, 33))]
    counts = optimal_counts(curve, 8)
    assert counts == [1, 1, 2, 2, 3, 4, 6, 13]
    assert expected_divergence(curve, counts) == pytest.approx(0.6444305473, abs=1e-9)
    assert expected_divergence(curve, [4] * 8) == pytest.approx(1.8064889504, abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        curve = [0.0, *torch.rand(6, generator=generator, dtype=torch.float64).cumsum(0).tolist()]
        for steps in range(1, 7):
            shares = [c for c in itertools.product(range(1, 7), repeat=steps) if sum(c) == 6]
            least = min(expected_divergence(curve, c) for c in shares)
            assert expected_divergence(curve, optimal_counts(curve, steps)) == pytest.approx(least, abs=1e-12)


@pytest.mark.parametrize(
    ("minimum", "predictions", "kl"),
    [(0.35, 1.0, 0.0701757), (0.4, 2.0, 0.0191534), (0.45, 3.0, 0.0), (1.01, 3.0, 0.0)],
)
def test_t19_threshold_has_the_published_laws(minimum, predictions, kl):
    q, n = law(BED, BED.oracle, 3, order=orders.max_probability, reveal=reveals.threshold(minimum))
    assert n == pytest.approx(predictions, abs=1e-9)
    assert divergence(BED.p, q) == pytest.approx(kl, abs=1e-7)


@ALL
@pytest.mark.parametrize("bound", [0.0, 0.3, 0.7, 1.0, 1.2, 2.0, 10.0])
def test_t19_entropy_bound_bounds_the_divergence(name, bound):
    bed = BEDS[name]
    q, n = law(bed, bed.oracle, bed.length, order=orders.entropy, reveal=reveals.entropy_bound(bound))
    assert divergence(bed.p, q) <= bound * n + 1e-12
    if name == "L3V3":
        expected = {1.2: (2.0, 0.0191534), 2.0: (2.0, 0.0191534), 10.0: (1.0, 0.0701757)}.get(bound, (3.0, 0.0))
        assert (n, divergence(bed.p, q)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", ["L3V3", "L2V5"])
def test_t23_gibbs_leaves_a_perfect_models_distribution_as_it_is(name, size):
    """From p itself, masked at random by the rule, to p; one round is a mask and `size` fills."""
    bed = BEDS[name]
    hidden = torch.tensor([s for s in itertools.product((False, True), repeat=bed.length) if sum(s) == size])
    begin = torch.where(hidden[:, None], bed.mask, bed.sequences).flatten(0, 1)
    weights = bed.p.repeat(len(hidden)) / len(hidden)
    q, _ = law(bed, bed.oracle, size, begin=begin, weights=weights, random_order=True, order=orders.random,
               reveal=reveals.gibbs(size), random_subset=True)  # fmt: skip
    assert torch.allclose(q, bed.p, atol=1e-12)


def test_t23_gibbs_masks_so_many_tokens_at_random_when_none_is_left():
    """The last fill of a round, with steps left for another."""
    canvas, weight, _ = chain(BED, BED.oracle, 9, until=1, begin=torch.tensor([[0, BED.mask, 2]]), random_order=True,
                              order=orders.random, reveal=reveals.gibbs(2), random_subset=True)  # fmt: skip
    hidden = canvas == BED.mask
    assert (hidden.sum(dim=1) == 2).all()
    chances = torch.zeros(8).double().index_add(0, (hidden * torch.tensor([4, 2, 1])).sum(dim=1), weight)
    assert chances[[6, 5, 3]].tolist() == pytest.approx([1 / 3] * 3)


def test_t23_masking_the_doubtful_token_is_not_sampling():
    """One step from p that draws the token of lowest probability again: total variation 0.2266."""
    q = torch.zeros(27, dtype=torch.float64)
    for x, p in zip(BED.sequences, BED.p, strict=True):
        one_out = torch.where(torch.eye(3, dtype=torch.bool), BED.mask, x)
        conditional = BED.oracle(one_out)[range(3), range(3), :3].softmax(dim=-1)  # (3, V) leave-one-out
        i = int(conditional[range(3), x].argmin())
        for v in range(3):
            y = x.clone()
            y[i] = v
            q[BED.index(y)] += p * conditional[i, v]
    assert total_variation(q, BED.p) == pytest.approx(0.2266468, abs=1e-6)


def test_first_hitting_times_are_those_of_ordered_uniforms():
    """The mean of the j-th of four is 1 - j/5, within five standard errors (false alarm below 1e-5)."""
    u = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = hitting_times(u)
    assert (times.diff(dim=1) <= 0).all()
    errors = (times.mean(dim=0) - torch.tensor([0.8, 0.6, 0.4, 0.2]).double()).abs()
    assert (errors < 5 * times.std(dim=0) / 200_000**0.5).all()


@pytest.mark.parametrize(
    ("steps", "sequence"), [(3, (2, 2, 2)), (2, (2, 2, 2)), (1, (2, 2, 1))], ids=["1+1+1", "2+1", "3"]
)
def test_greedy_low_confidence_reveals_the_published_sequence(steps, sequence):
    canvas = torch.full((1, 3), BED.mask)
    states = list(denoise(lambda c, b: BED.oracle(c)[:, b], canvas, BED.mask, steps=steps))
    assert tuple(states[-1].canvas[0].tolist()) == sequence
    if steps == 3:
        visible = [s.visible[0].nonzero()[:, 0].tolist() for s in states]
        assert visible == [[1], [0, 1], [0, 1, 2]]


def test_greedy_counts_one_and_two_reveal_the_published_sequence():
    canvas = torch.full((1, 3), BED.mask)
    states = list(denoise(lambda c, b: BED.oracle(c)[:, b], canvas, BED.mask, steps=2, counts=given_counts([1, 2])))
    assert states[-1].canvas.tolist() == [[2, 2, 1]]
