"""The objective against exact enumeration on the test bed (ids T1..T10), and against the golden losses."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from bed import BED, BEDS, STAR
from safetensors.torch import load_file
from torch import Tensor

from llada.train.objective import (
    SCHEDULES,
    Noised,
    cart_weight,
    elbo_loss,
    floored,
    forward_process,
    masked_cross_entropy,
    polynomial,
    row_nelbo,
    stratified,
    stratified_counts,
)

GOLDEN = Path(__file__).parents[1] / "golden"
PREDICTORS = ("oracle", "bad")


def all_counts_and_masks(bed, x: Tensor) -> tuple[Noised, Tensor]:
    """Every outcome of the exact-count process on x, with its probability: k uniform, then a uniform set of k."""
    masks = bed.masks()
    k = masks.sum(dim=1)
    ways = torch.tensor([math.comb(bed.length, int(n)) for n in k], dtype=torch.float64)
    noised = forward_process(x.expand(len(masks), -1), bed.mask, counts=k, uniforms=torch.where(masks, 0.0, 0.5))
    assert torch.equal(noised.masked, masks)
    return noised, 1 / (bed.length * ways)


def log_probabilities(bed, predictor: str, xt: Tensor) -> Tensor:
    return getattr(bed, predictor)(xt)[..., : bed.vocab]


def outcomes(bed, predictor: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The library's estimate of the bound for every outcome of the exact-count process, and the probabilities."""
    noised, probability = all_counts_and_masks(bed, x)
    x0 = x.expand_as(noised.xt)
    return row_nelbo(log_probabilities(bed, predictor, noised.xt), x0, noised), probability


def mean_over_orders(bed, predictor: str, x: Tensor) -> float:
    """Mean over all reveal orders of the chain-rule negative log-likelihood."""
    total = 0.0
    orders = list(itertools.permutations(range(bed.length)))
    for order in orders:
        canvas = torch.full((1, bed.length), bed.mask)
        for i in order:
            total -= float(log_probabilities(bed, predictor, canvas)[0, i].log_softmax(-1)[x[i]])
            canvas[0, i] = x[i]
    return total / len(orders)


@pytest.mark.parametrize("name", BEDS)
def test_t1_bound_of_a_perfect_model_is_the_negative_log_likelihood(name):
    bed = BEDS[name]
    for x, p in zip(bed.sequences, bed.p, strict=True):
        losses, probability = outcomes(bed, "oracle", x)
        assert float((losses * probability).sum()) == pytest.approx(-math.log(p), abs=1e-12)


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("name", BEDS)
def test_t2_bound_is_the_mean_over_orders_of_the_chain_rule_for_any_predictor(name, predictor):
    bed = BEDS[name]
    for x in bed.sequences:
        losses, probability = outcomes(bed, predictor, x)
        assert float((losses * probability).sum()) == pytest.approx(mean_over_orders(bed, predictor, x), abs=1e-12)


def test_bed_reproduces_its_published_values():
    bed = json.loads((GOLDEN / "bed.json").read_text())
    for predictor in PREDICTORS:
        for x in BED.sequences:
            published = bed[f"{predictor}_nelbo"]["".join(map(str, x.tolist()))]
            assert float(BED.nelbo(getattr(BED, predictor), x)) == pytest.approx(published, abs=1e-12)


def bound_by_quadrature(schedule, bed, predictor: str, x: Tensor) -> float:
    """Integral over t of weight(t) times the expected masked cross-entropy, by the midpoint rule in p = 1 - alpha."""
    n = 20_000
    p = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    t = schedule.inverse(1 - p)
    weight_per_p = schedule.weight(t) / -schedule.slope(t)  # dt = dp / -alpha'(t)
    return float((weight_per_p * bed.g(getattr(bed, predictor), x, p)).mean())


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), polynomial(0.5)], ids=[*SCHEDULES, "square root"])
def test_t3_bound_does_not_depend_on_the_schedule(schedule):
    assert bound_by_quadrature(schedule, BED, "bad", STAR) == pytest.approx(4.2302025253, abs=1e-6)
    for bed in BEDS.values():
        x = bed.sequences[-2]
        assert bound_by_quadrature(schedule, bed, "bad", x) == pytest.approx(float(bed.nelbo(bed.bad, x)), abs=1e-6)


def test_t4_floor_of_t_has_the_predicted_bias():
    eps, n = 0.1, 20_000
    t = floored((torch.arange(n, dtype=torch.float64) + 0.5) / n, eps)
    estimate = float((BED.g(BED.bad, STAR, t) / t).mean())
    assert estimate - float(BED.nelbo(BED.bad, STAR)) == pytest.approx(0.025221797, abs=1e-7)


@pytest.mark.parametrize("name", BEDS)
@pytest.mark.parametrize("eps", [1e-3, 1e-1])
def test_t4_floor_cuts_off_the_integral_below_it(name, eps):
    """A1.4: the mean under the floor is the integral of G(p) / p from eps to 1, over 1 - eps."""
    bed, n = BEDS[name], 20_000
    midpoints = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x, t = bed.sequences[-2], floored(midpoints, eps)
    below = midpoints * eps
    cut = float((bed.g(bed.bad, x, below) / below).mean()) * eps
    expected = (float(bed.nelbo(bed.bad, x)) - cut) / (1 - eps)
    assert float((bed.g(bed.bad, x, t) / t).mean()) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", BEDS)
def test_t5_discrete_time_bound_falls_from_independent_tokens_to_the_continuous_one(name):
    """In one step all tokens are independent; the excess of many steps falls as their number."""
    bed = BEDS[name]
    x, found = bed.sequences[-2], []
    for steps in (1, 2, 4, 64, 128):
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        weight = SCHEDULES["linear"].reveal_probability(grid[1:], grid[:-1])
        found.append(float((weight * bed.g(bed.oracle, x, grid[1:])).sum()))
    alone = log_probabilities(bed, "oracle", torch.full((1, bed.length), bed.mask))[0].log_softmax(dim=-1)
    assert found[0] == pytest.approx(-float(alone.gather(-1, x[:, None]).sum()), abs=1e-12)
    excess = [one + math.log(bed.p[bed.index(x)]) for one in found]
    assert excess[3] / excess[4] == pytest.approx(2, abs=0.05)


def test_t5_discrete_time_bound_uses_the_reveal_probability_as_weight():
    for steps, expected in ((1, 4.3926115266), (2, 4.3238804939), (4, 4.2801598766)):
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        weight = SCHEDULES["linear"].reveal_probability(grid[1:], grid[:-1])
        assert float((weight * BED.g(BED.bad, STAR, grid[1:])).sum()) == pytest.approx(expected, abs=1e-9)


def test_t6_exact_count_estimate_has_the_small_variance():
    losses, probability = outcomes(BED, "oracle", STAR)
    mean = (losses * probability).sum()
    assert float(((losses - mean) ** 2 * probability).sum()) == pytest.approx(0.4534490696, abs=1e-9)


def test_t6_one_over_t_estimate_has_the_large_variance():
    n = 200_000
    t = floored((torch.arange(n, dtype=torch.float64) + 0.5) / n, 1e-3)
    masks = BED.masks()
    noised = Noised(torch.where(masks, BED.mask, STAR), masks, torch.ones(len(masks), dtype=torch.float64))
    s = row_nelbo(log_probabilities(BED, "oracle", noised.xt), STAR.expand_as(noised.xt), noised)  # t = 1: S itself
    k = masks.sum(dim=1)
    probability = t[:, None] ** k * (1 - t[:, None]) ** (BED.length - k)  # (n, masks)
    mean = (probability * s / t[:, None]).sum(dim=1).mean()
    second = (probability * (s / t[:, None]) ** 2).sum(dim=1).mean()
    assert float(second - mean**2) == pytest.approx(27.6690, abs=5e-3)


@pytest.mark.parametrize("name", BEDS)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_t6_exact_counts_have_less_variance_than_one_over_t_everywhere(name, predictor):
    """The second moment of the 1/t estimate is the integral of E S^2 / t^2 from the floor to 1."""
    bed, n = BEDS[name], 20_000
    masks = bed.masks()
    k = masks.sum(dim=1)
    t = floored((torch.arange(n, dtype=torch.float64) + 0.5) / n, 1e-3)[:, None]
    for x in bed.sequences:
        losses, probability = outcomes(bed, predictor, x)
        mean = (losses * probability).sum()
        s = losses * k / bed.length  # the sum over the masked tokens
        chance = t**k * (1 - t) ** (bed.length - k)  # (n, masks)
        one_over_t = (chance * (s / t - mean) ** 2).sum(dim=1).mean()
        assert float((losses - mean).square() @ probability) < 0.5 * float(one_over_t)


def test_t7_stratified_counts_are_exactly_uniform():
    for rows, length in itertools.product(range(1, 33), range(1, 65)):
        counts = torch.stack([stratified_counts(start, rows, length) for start in range(1, length + 1)])
        assert torch.equal(counts.flatten().bincount(minlength=length + 1)[1:], torch.full((length,), rows))


def test_t8_stratified_times_visit_every_stratum_and_no_row_is_tied_to_one():
    for rows in (1, 2, 3, 8, 17):
        offsets = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
        t = torch.stack([stratified(offset, rows) for offset in offsets])
        assert torch.equal((t * rows).floor().sort(dim=1)[0], torch.arange(rows).double().expand(64, -1))
        assert torch.allclose(t.mean(dim=0), torch.full((rows,), 0.5, dtype=torch.float64), atol=1 / 64)


def test_t9_context_adaptive_weights_match_their_vectors():
    masked = torch.tensor([[False, True, False, False], [False, True, True, True], [True, True, True, True]])
    weights = cart_weight(masked)
    assert float(cart_weight(masked[:1, :3])[0, 1]) == pytest.approx(0.3)
    assert torch.allclose(weights[1], torch.tensor([0, 0.15, 0.105, 0.0735]))
    assert torch.equal(weights[2], torch.zeros(4))


def random_order_likelihood(predictor, x: Tensor) -> float:
    """p(x) under one-at-a-time reveals in random order, by the recursion over sets of visible positions."""
    g = {(True,) * BED.length: 1.0}
    for visible in sorted(itertools.product((False, True), repeat=BED.length), key=sum, reverse=True)[1:]:
        canvas = torch.where(torch.tensor(visible), x, BED.mask)[None]
        p = predictor(canvas)[0, :, : BED.vocab].softmax(dim=-1)
        hidden = [i for i in range(BED.length) if not visible[i]]
        after = [g[(*visible[:i], True, *visible[i + 1 :])] for i in hidden]
        g[visible] = sum(float(p[i, x[i]]) * a for i, a in zip(hidden, after, strict=True)) / len(hidden)
    return g[(False,) * BED.length]


def test_t10_random_order_law_is_a_distribution_and_the_bound_lies_above_it():
    total, gaps = 0.0, []
    for x in BED.sequences:
        likelihood = random_order_likelihood(BED.bad, x)
        losses, probability = outcomes(BED, "bad", x)
        total += likelihood
        gaps.append(float((losses * probability).sum()) + math.log(likelihood))
    assert total == pytest.approx(1, abs=1e-12)
    assert min(gaps) == pytest.approx(3.76e-4, abs=1e-6)
    assert max(gaps) == pytest.approx(2.174e-2, abs=1e-5)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_conditional_bound_counts_the_maskable_tokens_only(predictor):
    """Fine-tuning's loss on the bed with the first token as prompt; for the oracle -log p(x2 x3 | x1) / 2."""
    for x, p in zip(BED.sequences, BED.p, strict=True):
        maskable = torch.tensor([[False, True, True]]).expand(4, -1)
        uniforms = torch.tensor([[0, 0.1, 0.9], [0, 0.9, 0.1], [0, 0.1, 0.9], [0, 0.9, 0.1]])
        noised = forward_process(
            x.expand(4, -1), BED.mask, maskable=maskable, counts=torch.tensor([1, 1, 2, 2]), uniforms=uniforms
        )
        logp = log_probabilities(BED, predictor, noised.xt)
        loss = float(elbo_loss(logp, x.expand(4, -1), noised, maskable.sum(dim=1)))
        assert not noised.masked[:, 0].any()
        if predictor == "oracle":
            prompt = float(BED.p[BED.sequences[:, 0] == x[0]].sum())
            assert loss == pytest.approx(-math.log(p / prompt) / 2, abs=1e-12)
        else:
            assert loss == pytest.approx(chain_rule_after_prompt(x) / 2, abs=1e-12)


def chain_rule_after_prompt(x: Tensor) -> float:
    total = 0.0
    for order in ((1, 2), (2, 1)):
        canvas = torch.tensor([[int(x[0]), BED.mask, BED.mask]])
        for i in order:
            total -= float(log_probabilities(BED, "bad", canvas)[0, i].log_softmax(-1)[x[i]]) / 2
            canvas[0, i] = x[i]
    return total


def golden_noised(x0: Tensor, masked: Tensor, p_mask: Tensor, mask_token_id: int) -> Noised:
    return Noised(torch.where(masked, mask_token_id, x0), masked, p_mask[:, 0])


@pytest.fixture(scope="module")
def golden():
    import llada

    model, _ = llada.load_pretrained(GOLDEN / "tiny-mha")
    return model, load_file(GOLDEN / "tiny-mha" / "reference.safetensors")


def test_golden_pretraining_loss(golden):
    model, reference = golden
    x0, masked = reference["loss.input_ids"], reference["loss.masked"]
    noised = golden_noised(x0, masked, reference["loss.p_mask"], model.config.mask_token_id)
    assert torch.allclose(noised.t, floored(reference["loss.t"], 1e-3))
    with torch.no_grad():
        loss = elbo_loss(model(noised.xt).logits, x0, noised, x0.shape[1])
    assert float(loss) == pytest.approx(float(reference["loss.pretrain"]), rel=1e-5)


def test_golden_fine_tuning_loss(golden):
    model, reference = golden
    x0, prompt_lengths = reference["loss.input_ids"], reference["loss.prompt_lengths"]
    maskable = torch.arange(x0.shape[1]) >= prompt_lengths[:, None]
    masked = reference["loss.masked"] & maskable
    noised = golden_noised(x0, masked, reference["loss.p_mask"], model.config.mask_token_id)
    masked_at = masked.flatten().nonzero()[:, 0]
    with torch.no_grad():
        everywhere, lean = model(noised.xt).logits, model(noised.xt, logits_at=masked_at).logits
    for logits in (everywhere, lean):
        loss = elbo_loss(logits, x0, noised, maskable.sum(dim=1))
        assert float(loss) == pytest.approx(float(reference["loss.sft"]), rel=1e-5)


def test_golden_conditional_bound_by_enumerating_all_masks(golden):
    model, reference = golden
    prompt, answer = reference["likelihood.prompt"], reference["likelihood.answer"]
    n = len(answer)
    masks = torch.tensor(list(itertools.product((False, True), repeat=n))[1:])
    x0 = torch.cat((prompt, answer)).expand(len(masks), -1)
    maskable = (torch.arange(x0.shape[1]) >= len(prompt)).expand_as(x0)
    uniforms = torch.cat((torch.zeros(len(masks), len(prompt)), torch.where(masks, 0.0, 0.5)), dim=1)
    counts = masks.sum(dim=1)
    noised = forward_process(x0, model.config.mask_token_id, maskable=maskable, counts=counts, uniforms=uniforms)
    with torch.no_grad():
        bounds = row_nelbo(model(noised.xt).logits.double(), x0, noised)
    probability = 1 / (n * torch.tensor([math.comb(n, int(k)) for k in counts], dtype=torch.float64))
    value = -float((bounds * probability).sum())
    assert value == pytest.approx(float(reference["likelihood.exact_elbo"]), abs=1e-4)


def test_mask_frequency_is_t_for_given_t():
    """False alarm below 1e-6: five standard deviations of a binomial."""
    t = torch.tensor([0.05, 0.5, 0.95])
    noised = forward_process(torch.ones(3, 40_000, dtype=torch.long), 0, t, generator=torch.Generator().manual_seed(0))
    error = (noised.masked.float().mean(dim=1) - t).abs()
    assert (error < 5 * (t * (1 - t) / 40_000).sqrt()).all()
    assert torch.equal(noised.t, t)


def test_drawn_t_is_stratified_and_floored():
    noised = forward_process(torch.ones(8, 4, dtype=torch.long), 0, generator=torch.Generator().manual_seed(1), eps=0.5)
    assert (noised.t >= 0.5).all()
    assert torch.equal(((noised.t - 0.5) * 2 * 8).floor().sort()[0], torch.arange(8.0))


def test_same_generator_gives_the_same_masks_and_another_seed_others():
    x0 = torch.ones(4, 64, dtype=torch.long)
    a, b, c = (forward_process(x0, 0, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(a.xt, b.xt)
    assert not torch.equal(a.xt, c.xt)


def test_tokens_that_are_not_maskable_stay():
    x0 = torch.arange(1, 13).reshape(2, 6)
    maskable = torch.tensor([[False, False, True, True, True, False]] * 2)
    noised = forward_process(x0, 0, torch.ones(2), maskable)
    assert torch.equal(noised.masked, maskable)
    assert torch.equal(noised.xt, torch.where(maskable, 0, x0))


def test_counts_mask_exactly_so_many_and_every_set_is_equally_likely():
    """False alarm below 1e-6: chi-square with 9 degrees of freedom above 50."""
    n = 30_000
    noised = forward_process(
        torch.ones(n, 5, dtype=torch.long),
        0,
        counts=torch.full((n,), 2),
        generator=torch.Generator().manual_seed(0),
    )
    assert (noised.masked.sum(dim=1) == 2).all()
    cells = (noised.masked * 2 ** torch.arange(5)).sum(dim=1).bincount(minlength=32)
    observed = cells[cells > 0].double()
    assert len(observed) == 10
    assert float(((observed - n / 10) ** 2 / (n / 10)).sum()) < 50
    assert torch.equal(noised.t, torch.full((n,), 0.4, dtype=torch.float64))


def test_row_without_a_mask_costs_nothing():
    noised = Noised(torch.ones(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool), torch.tensor([0.1, 0.2]))
    assert torch.equal(row_nelbo(torch.randn(2, 3, 5), torch.ones(2, 3, dtype=torch.long), noised), torch.zeros(2))


def test_half_precision_logits_give_a_float32_loss():
    x0, masked = torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)
    assert masked_cross_entropy(torch.zeros(1, 2, 3, dtype=torch.bfloat16), x0, masked).dtype == torch.float32


def test_schedule_weight_replaces_one_over_t():
    x0, masked = torch.ones(2, 4, dtype=torch.long), torch.ones(2, 4, dtype=torch.bool)
    noised = Noised(torch.zeros_like(x0), masked, torch.tensor([0.5, 0.5]))
    logits = torch.zeros(2, 4, 3)
    weight = SCHEDULES["cosine"].weight(torch.tensor([0.5, 0.25]))
    losses = row_nelbo(logits, x0, noised, weight)
    assert torch.allclose(losses, 4 * math.log(3) * weight)


def test_optimum_of_the_loss_is_the_true_conditional():
    """The gradient with respect to the logits vanishes at the oracle, averaged over data and masks."""
    gradient = torch.zeros(len(BED.masks()), BED.length, BED.vocab, dtype=torch.float64)
    states: dict[tuple[int, ...], Tensor] = {}
    for x, p in zip(BED.sequences, BED.p, strict=True):
        noised, probability = all_counts_and_masks(BED, x)
        logits = log_probabilities(BED, "oracle", noised.xt).clamp(min=-50).requires_grad_()
        (row_nelbo(logits, x.expand_as(noised.xt), noised) * probability).sum().backward()
        for state, one in zip(noised.xt.tolist(), logits.grad, strict=True):
            states[tuple(state)] = states.get(tuple(state), torch.zeros_like(gradient[0])) + p * one
    assert max(float(g.abs().max()) for g in states.values()) < 1e-12


@pytest.mark.parametrize("t", [torch.tensor([0.0, 0.5]), torch.tensor([0.5, 1.5])])
def test_t_outside_its_range_is_refused(t):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        forward_process(torch.ones(2, 3, dtype=torch.long), 0, t)


def test_t_and_counts_together_are_refused():
    with pytest.raises(ValueError, match="not both"):
        forward_process(torch.ones(2, 3, dtype=torch.long), 0, torch.ones(2), counts=torch.ones(2, dtype=torch.long))


@pytest.mark.parametrize("counts", [[0, 1], [1, 3]])
def test_counts_that_a_row_cannot_give_are_refused(counts):
    maskable = torch.tensor([[True, True, False]] * 2)
    with pytest.raises(ValueError, match="between 1 and the maskable tokens"):
        forward_process(torch.ones(2, 3, dtype=torch.long), 0, maskable=maskable, counts=torch.tensor(counts))


X, LOGITS = torch.arange(1, 16).reshape(3, 5), torch.randn(3, 5, 20, generator=torch.Generator().manual_seed(0))
ROWS = forward_process(X, 0, torch.full((3,), 0.5), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": torch.rand(3, 1)}, r"t is torch.float32 \(3, 1\); it must be floating point of shape \(3,\)"),
        ({"t": torch.rand(2)}, r"t is torch.float32 \(2,\)"),
        ({"t": 0.5}, r"t is 0.5; it must be floating point of shape \(3,\)"),
        ({"t": torch.tensor([0.5, math.nan, 0.5])}, r"t=\[0.5, nan, 0.5\] must lie in \(0, 1\]"),
        ({"counts": torch.tensor([1.0, math.nan, 1.0])}, r"counts is torch.float32 \(3,\); it must be torch.int64"),
        ({"counts": torch.ones(3, 1).long()}, r"counts is torch.int64 \(3, 1\)"),
        ({"eps": math.nan}, "eps=nan must be at least 0 and below 1"),
        ({"maskable": torch.ones_like(X)}, r"maskable is torch.int64 \(3, 5\); it must be torch.bool"),
        ({"maskable": torch.ones(5).bool()}, r"maskable is torch.bool \(5,\); it must be torch.bool of shape \(3, 5\)"),
        ({"uniforms": torch.rand(5)}, r"uniforms is torch.float32 \(5,\)"),
        ({"x0": X.int()}, r"x0 is torch.int32 \(3, 5\); it must be tokens \(batch, length\) of torch.int64"),
        ({"x0": X[0]}, r"x0 is torch.int64 \(5,\); it must be tokens"),
        ({"x0": X * (X != 7)}, "x0 holds mask_token_id=0 where it is maskable; give clean tokens"),
        ({"mask_token_id": 0.0}, "mask_token_id=0.0 must be a whole number from 0"),
        ({"mask_token_id": -1}, "mask_token_id=-1 must be a whole number from 0"),
    ],
)
def test_what_would_mask_something_else_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        forward_process(**{"x0": X, "mask_token_id": 0} | options)


def test_mask_token_may_stand_where_nothing_is_masked():
    x0 = X * (X != 7)
    assert forward_process(x0, 0, torch.ones(3), maskable=x0 != 0).masked.sum() == 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": torch.full((3, 1), 5)}, r"lengths is torch.int64 \(3, 1\); it must be one number, or a tensor"),
        ({"lengths": [5, 5, 5]}, r"lengths is \[5, 5, 5\]; it must be one number, or a tensor \(3,\)"),
        ({"lengths": 0}, r"lengths=0 must be above 0 and below 2\*\*63: they divide the loss"),
        ({"lengths": -5}, "lengths=-5 must be above 0"),
        ({"lengths": torch.tensor([5, 0, 5])}, "must be above 0"),
        ({"weight": torch.ones(3, 1)}, r"weight is torch.float32 \(3, 1\); it must be floating point of shape"),
        ({"weight": torch.tensor([1, math.nan, 1])}, "must be at least 0 and finite"),
        ({"logits": LOGITS[:2]}, r"logits \(2, 5, 20\) do not fit tokens \(3, 5\) of which \d+ are masked"),
        ({"logits": LOGITS[0, :1]}, r"logits \(1, 20\) do not fit"),
        ({"x0": X[:2]}, r"noised.masked is torch.bool \(3, 5\); it must be torch.bool of shape \(2, 5\)"),
        ({"x0": X[0]}, r"x0 is torch.int64 \(5,\)"),
        ({"noised": ROWS._replace(t=ROWS.t[:, None])}, r"noised.t is torch.float32 \(3, 1\)"),
        ({"noised": ROWS._replace(t=0 * ROWS.t)}, r"noised.t=\[0.0, 0.0, 0.0\] must lie in \(0, 1\]"),
    ],
)
def test_what_would_be_another_loss_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        elbo_loss(**{"logits": LOGITS, "x0": X, "noised": ROWS, "lengths": 5} | options)


def test_batch_without_rows_has_no_mean():
    with pytest.raises(ValueError, match="x0 has no rows, so there is no mean over them"):
        elbo_loss(LOGITS[:0], X[:0], forward_process(X[:0], 0), 5)
