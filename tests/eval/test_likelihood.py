"""Estimates of the bound: unbiased, with honest standard errors, and the same whatever shares a batch."""

import itertools
import math

import pytest
import torch
from bed import BED, BEDS, STAR
from bed_model import BedModel

import llada
from llada.estimate import Estimate
from llada.eval.likelihood import (
    ESTIMATORS,
    Masks,
    balanced,
    combined,
    every_mask,
    exact_count,
    log_likelihood,
    log_likelihoods,
    mean_of,
    one_over_t,
    perplexity,
    rolling_log_likelihood,
)
from llada.eval.scoring import Question, Request, log_probs, request_of
from llada.train.objective import stratified_counts

LONG = BEDS["L4V2"]  # 15 masks
X = torch.tensor([1, 0, 0, 1])


@pytest.fixture(scope="module")
def golden_model(golden_folder):
    return llada.load_pretrained(golden_folder / "tiny-mha")[0].double()


def requests() -> list[Request]:
    """Of different lengths."""
    return [request_of(range(5, 5 + i), range(20, 30 + 2 * i)) for i in (3, 0, 5, 1)]


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


@pytest.mark.parametrize("samples", [15, 128])
def test_all_masks_are_enumerated_where_they_are_few(samples):
    model = BedModel(LONG, "bad")
    found = log_likelihood(model, [], X, samples)
    assert found == Estimate(pytest.approx(-float(LONG.nelbo(model.predict, X)), abs=1e-12), 0.0, 15)
    assert model.evaluations == 15


def test_single_token_takes_one_evaluation_and_is_exact():
    model = BedModel(BED, "bad")
    found = log_likelihood(model, STAR[:2], STAR[2:], samples=1)
    expected = BED.bad(torch.tensor([[2, 1, BED.mask]]))[0, 2, :3].log_softmax(dim=-1)[0]
    assert found == Estimate(pytest.approx(float(expected), abs=1e-12), 0.0, 1)
    assert model.evaluations == 1


def test_requests_share_batches_and_do_not_depend_on_them(golden_model):
    alone = [log_likelihood(golden_model, *one, 8, 3) for one in requests()]
    for size in (1, 3, 64):
        together = list(log_likelihoods(golden_model, requests(), 8, 3, batch_size=size))
        assert [t.value for t in together] == pytest.approx([a.value for a in alone], abs=1e-10)
        assert [t.stderr for t in together] == pytest.approx([a.stderr for a in alone], abs=1e-10)
    backwards = list(log_likelihoods(golden_model, requests()[::-1], 8, 3))[::-1]
    assert [b.value for b in backwards] == pytest.approx([a.value for a in alone], abs=1e-10)
    assert list(log_likelihoods(golden_model, [])) == []


def test_same_seed_gives_the_same_masks_and_another_one_others(golden_model):
    one = requests()[0]
    values = [log_likelihood(golden_model, *one, 8, seed).value for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    longer = log_likelihood(golden_model, one.prompt, torch.cat((one.answer, one.answer[:1])), 8, 0)
    assert longer.value != values[0]


def test_precision_is_reached_or_the_limit_is(golden_model):
    one = requests()[0]
    rough = log_likelihood(golden_model, *one, 8)
    fine = log_likelihood(golden_model, *one, 8, precision=rough.stderr / 4)
    assert fine.stderr <= rough.stderr / 4
    assert fine.samples > rough.samples
    assert fine.samples % 8 == 0
    capped = log_likelihood(golden_model, *one, 8, precision=1e-9, max_samples=30)
    assert capped.samples == 24
    assert capped.stderr > 1e-9
    assert log_likelihood(golden_model, *one, 8, precision=1e9) == rough


def test_estimators_estimate_the_same(golden_model):
    """4096 evaluations each: five standard errors, and the floor's thousandth."""
    one = requests()[0]
    found = [log_likelihood(golden_model, *one, 4096, estimator=estimator) for estimator in ESTIMATORS.values()]
    error = math.hypot(found[0].stderr, found[1].stderr)
    assert abs(found[0].value - found[1].value) < 5 * error + 2e-3 * abs(found[0].value)


def test_one_over_t_needs_many_more_evaluations():
    """Variances of single evaluations at x* under the oracle: 27.669 against 0.4534 (id T6)."""
    generator = torch.Generator().manual_seed(0)
    masks = one_over_t(3, 200_000, generator)
    s = BED.masked_nll(BED.oracle, STAR, masks.masked)
    assert float((s * masks.weight).var()) == pytest.approx(27.669, rel=0.15)  # heavy tails: five standard errors


def test_guidance_scores_with_both_predictions():
    model = BedModel(BED, "oracle")
    found = log_likelihood(model, STAR[:1], STAR[1:], cfg_scale=1.0)
    masked = torch.tensor([[True, False], [False, True], [True, True]])
    expected = 0.0
    for one, weight in zip(masked, (0.5, 0.5, 0.5), strict=True):  # 1 / (k C(2, k))
        canvas = torch.where(one, BED.mask, STAR[1:])
        conditional = BED.oracle(torch.cat((STAR[:1], canvas))[None])[0, 1:, :3]
        unconditional = BED.oracle(torch.cat((torch.tensor([BED.mask]), canvas))[None])[0, 1:, :3]
        log_p = (unconditional + 2 * (conditional - unconditional)).log_softmax(dim=-1)
        expected += weight * float(log_p.gather(-1, STAR[1:, None])[one, 0].sum())
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.samples == 3
    assert log_likelihood(model, STAR[:1], STAR[1:], cfg_scale=0.0).value != pytest.approx(expected, abs=1e-3)


def test_mean_over_requests_has_their_spread():
    estimates = [Estimate(value, 0.1, 8) for value in (1.0, 2.0, 6.0)]
    found = mean_of(estimates)
    assert found.value == pytest.approx(3.0)
    assert found.stderr == pytest.approx((7 / 3) ** 0.5)
    assert found.samples == 24
    with pytest.raises(ValueError, match="needs at least 2, not 1"):
        mean_of(estimates[:1])


def test_documents_are_scored_window_by_window(golden_model):
    document = torch.arange(5, 28)
    one_by_one = rolling_log_likelihood(golden_model, document, window=1, context=3)
    tokens = [log_likelihood(golden_model, document[max(0, i - 3) : i], document[i : i + 1]).value for i in range(23)]
    assert one_by_one == Estimate(pytest.approx(sum(tokens), abs=1e-9), 0.0, 23)
    whole = rolling_log_likelihood(golden_model, document, window=30, context=4, samples=8, seed=1)
    assert whole == log_likelihood(golden_model, [], document, 8, 1)
    found = rolling_log_likelihood(golden_model, document, window=10, context=4, samples=8)
    cuts = ((0, 0, 10), (6, 10, 20), (16, 20, 23))
    parts = [log_likelihood(golden_model, document[a:b], document[b:c], 8) for a, b, c in cuts]
    assert found.value == pytest.approx(sum(part.value for part in parts), abs=1e-9)
    assert found.stderr == pytest.approx(math.hypot(*(part.stderr for part in parts)), abs=1e-12)
    assert found.samples == 8 + 8 + 7


def test_perplexity_and_its_error():
    found = perplexity(Estimate(-20.0, 1.0, 64), 10)
    assert found.value == pytest.approx(math.exp(2.0))
    assert found.stderr == pytest.approx((math.exp(2.01) - math.exp(1.99)) / 0.02 * 0.1, rel=1e-4)
    with pytest.raises(ValueError, match="tokens=0 must be at least 1"):
        perplexity(Estimate(-20.0, 1.0, 64), 0)


def test_impossible_token_is_infinitely_unlikely():
    class Certain:
        config = BedModel(BED, "bad").config

        def __call__(self, input_ids, *, attention_mask=None):
            logits = torch.full((*input_ids.shape, 4), -torch.inf)
            logits[..., 0] = 0.0
            return type("Output", (), {"logits": logits})

    found = log_likelihood(Certain(), [], [0] * 9 + [1], samples=4)
    assert found == Estimate(-math.inf, math.inf, 4)
    assert log_likelihood(Certain(), [], [0, 1, 0]).value == -math.inf


@pytest.mark.parametrize(
    ("prompt", "answer", "samples", "message"),
    [
        ([], [], 8, "the answer is empty: its likelihood is 1 under every model; score at least one token"),
        ([256], [5], 8, r"must not hold \[MASK\]"),
        ([5], [256], 8, r"must not hold \[MASK\]"),
        ([5] * 200, [5] * 60, 8, "260 tokens of prompt and answer exceed the model's"),
        ([5], [5] * 9, 1, "samples=1 of an answer of 9 tokens: a standard error needs at least 2 evaluations"),
        ([5], [5] * 9, 0, "samples=0 of an answer"),
    ],
)
def test_impossible_request_is_explained(golden_model, prompt, answer, samples, message):
    mask = golden_model.config.mask_token_id
    prompt, answer = ([mask if token == 256 else token for token in part] for part in (prompt, answer))
    with pytest.raises(ValueError, match=message):
        log_likelihood(golden_model, prompt, answer, samples)


def test_impossible_windows_are_explained(golden_model):
    with pytest.raises(ValueError, match="window=0 must be at least 1 and context=4 at least 0"):
        rolling_log_likelihood(golden_model, [5, 6], 0, 4)
    with pytest.raises(ValueError, match="context=-1 at least 0"):
        rolling_log_likelihood(golden_model, [5, 6], 2, -1)
    with pytest.raises(ValueError, match="the document is empty"):
        rolling_log_likelihood(golden_model, [], 2, 1)


def test_logits_that_are_no_numbers_are_an_error():
    class Broken:
        config = BedModel(BED, "bad").config

        def __call__(self, input_ids, *, attention_mask=None):
            return type("Output", (), {"logits": torch.full((*input_ids.shape, 4), torch.nan)})

    with pytest.raises(FloatingPointError, match="the model's logits are not numbers"):
        log_likelihood(Broken(), [], STAR)
