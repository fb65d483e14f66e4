"""The estimators of the bound: unbiased, with honest standard errors, and better than what they replace."""

import itertools
import math

import pytest
import torch
from bed import BED, BEDS, STAR
from bed_model import BedModel

from llada.eval.likelihood import (
    ESTIMATORS,
    Masks,
    balanced,
    combined,
    every_mask,
    exact_count,
    log_likelihood,
    one_over_t,
)
from llada.eval.scoring import Question, log_probs, request_of
from llada.train.objective import stratified_counts

LONG = BEDS["L4V2"]  # 15 masks
X = torch.tensor([1, 0, 0, 1])


@pytest.mark.parametrize(("samples", "excess"), [(8, 1.48), (14, 1.10)])
def test_estimate_is_unbiased_and_its_standard_error_covers(samples, excess):
    """600 seeds; normal approximation: false alarm below 1e-6 each (five standard errors)."""
    model = BedModel(LONG, "bad")
    exact = -float(LONG.nelbo(model.predict, X))
    found = [log_likelihood(model, [], X, samples, seed) for seed in range(600)]
    values, squares = (
        torch.tensor(part, dtype=torch.float64) for part in ([f.value for f in found], [f.stderr**2 for f in found])
    )
    assert abs(values.mean() - exact) < 5 * values.std() / 600**0.5
    # the mean of the squared standard errors is the variance, times what differences between the strata add to it
    variance = (values - exact).square()
    uncertainty = math.hypot(excess * variance.std(), squares.std()) / 600**0.5
    assert abs(squares.mean() - excess * variance.mean()) < 5 * uncertainty
    assert all(f.samples == samples for f in found)


def every_draw(length: int, samples: int):
    """All that `exact_count` can draw, each with its probability."""
    for start in range(1, length + 1):
        counts = stratified_counts(start, samples, length).sort().values
        sets = [[*itertools.combinations(range(length), k)] for k in counts.tolist()]
        p = 1 / length / math.prod(map(len, sets))
        for chosen in itertools.product(*sets):
            masked = torch.tensor([[i in one for i in range(length)] for one in chosen])
            yield p, Masks(masked, length / counts.double())


@pytest.mark.parametrize("samples", [2, 3, 5])
@pytest.mark.parametrize("predictor", ["oracle", "bad"])
@pytest.mark.parametrize("name", ["L3V3", "L4V2"])
def test_correction_is_exactly_unbiased_and_lessens_the_variance_without_understating_it(name, predictor, samples):
    """Enumerated: nothing is left to chance."""
    bed = BEDS[name]
    A, x = bed.length, bed.sequences[-2]
    everything = every_mask(A)
    model = BedModel(bed, predictor)
    log_p = next(log_probs(model, [Question(request_of([], x), everything.masked)]))
    p, plain, corrected, stated = [], [], [], []
    for chance, masks in every_draw(A, samples):
        under = log_p[(masks.masked * 2 ** torch.arange(A)).sum(dim=1) - 1]
        values = balanced(under, masks)
        p.append(chance)
        plain.append(float((under.sum(dim=1) * masks.weight).mean()))
        corrected.append(float(values.mean()))
        stated.append(combined([values], exact=False).stderr ** 2)
    p, plain, corrected, stated = (torch.tensor(each, dtype=torch.float64) for each in (p, plain, corrected, stated))
    exact = -float(bed.nelbo(model.predict, x))
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert float(p @ corrected) == pytest.approx(exact, abs=1e-12)
    variance = float(p @ (corrected - exact).square())
    assert variance < 0.95 * float(p @ (plain - exact).square())
    assert variance <= float(p @ stated) * (1 + 1e-9)
    assert float(p @ stated) < 2.5 * variance  # where strata are few, what differs between them counts, too


def test_stratified_masks_are_better_than_drawn_ones_by_what_their_number_explains():
    class Counting:
        """log p(token) = - number of masks: all variance is between the strata."""

        config = BedModel(BED, "bad").config

        def __call__(self, input_ids, *, attention_mask=None):
            masks = (input_ids == 3).sum(dim=1)[:, None].double()
            p = (-masks).exp()
            rest = ((1 - p) / 2).log()
            logits = torch.stack((-masks, rest, rest, torch.zeros_like(rest)), dim=-1)  # (B, 1, 4)
            return type("Output", (), {"logits": logits.repeat(1, input_ids.shape[1], 1)})

    answer = torch.zeros(16, dtype=torch.long)
    # sum_masked log p = -k * k, times 16/k: -16 k, of which stratification with one number each leaves no variance
    found = [log_likelihood(Counting(), [], answer, samples=16, seed=seed) for seed in range(5)]
    assert [f.value for f in found] == pytest.approx([-16 * 17 / 2] * 5, abs=1e-9)
    naive = 16 * torch.arange(1.0, 17).std() / 4
    assert all(f.stderr < naive / 2 for f in found)  # the variance over all would say that nothing was gained


def test_tokens_that_are_hard_wherever_they_are_masked_add_little_variance():
    """Where hardness is all there is, 16 evaluations leave 3 % of the variance; the bound is far from chance."""

    class Hard:
        config = BedModel(BED, "bad").config

        def __call__(self, input_ids, *, attention_mask=None):
            logits = torch.zeros(*input_ids.shape, 4, dtype=torch.float64)
            logits[..., 0] = torch.arange(input_ids.shape[1]) % 5
            return type("Output", (), {"logits": logits})

    def uncorrected(length: int, samples: int, generator: torch.Generator) -> Masks:
        return exact_count(length, samples, generator)._replace(corrected=False)

    answer = torch.zeros(16, dtype=torch.long)
    exact = sum(-math.log(1 + 2 * math.exp(-(i % 5))) for i in range(16))
    errors = [
        sum((log_likelihood(Hard(), [], answer, 16, seed, estimator=one).value - exact) ** 2 for seed in range(40))
        for one in (exact_count, uncorrected)
    ]
    assert errors[0] < 0.2 * errors[1]


def test_estimators_estimate_the_same(golden_model):
    """4096 evaluations each: five standard errors, and the floor's thousandth."""
    one = request_of(range(5, 8), range(20, 36))
    found = [log_likelihood(golden_model, *one, 4096, estimator=estimator) for estimator in ESTIMATORS.values()]
    error = math.hypot(found[0].stderr, found[1].stderr)
    assert abs(found[0].value - found[1].value) < 5 * error + 2e-3 * abs(found[0].value)


def test_one_over_t_needs_many_more_evaluations():
    """Variances of single evaluations at x* under the oracle: 27.669 against 0.4534 (id T6)."""
    generator = torch.Generator().manual_seed(0)
    masks = one_over_t(3, 200_000, generator)
    s = BED.masked_nll(BED.oracle, STAR, masks.masked)
    assert float((s * masks.weight).var()) == pytest.approx(27.669, rel=0.15)  # heavy tails: five standard errors
