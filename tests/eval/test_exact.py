"""Exact likelihoods against enumeration (ids T1, T2, T10, T11, T12, T30 of the published properties)."""

import itertools
import json
import math

import pytest
import torch
from bed import BED, BEDS, STAR
from bed_model import BedModel, BrokenModel, models, total

import llada
from llada.eval.exact import exact_log_likelihood, exact_upper_bound, ordered_log_likelihood
from llada.eval.likelihood import log_likelihood

EVERYTHING = 2**4 - 1  # masks of the longest bed


def by_all_orders(bed, predictor, x) -> list[float]:
    """The chain rule of x in every order, position by position."""
    found = []
    for order in itertools.permutations(range(bed.length)):
        canvas, value = torch.full((1, bed.length), bed.mask), 0.0
        for i in order:
            value += float(predictor(canvas)[0, i, : bed.vocab].log_softmax(dim=-1)[x[i]])
            canvas[0, i] = x[i]
        found.append(value)
    return found


@pytest.mark.parametrize(("name", "predictor"), models())
def test_t2_bound_is_the_mean_over_all_orders_and_the_likelihood_that_of_probabilities(name, predictor):
    bed = BEDS[name]
    model = BedModel(bed, predictor)
    for x in bed.sequences:
        orders = torch.tensor(by_all_orders(bed, model.predict, x), dtype=torch.float64)
        bound = log_likelihood(model, [], x, samples=EVERYTHING)
        exact = exact_log_likelihood(model, [], x)
        assert bound.value == pytest.approx(float(orders.mean()), abs=1e-12)
        assert bound.value == pytest.approx(-float(bed.nelbo(model.predict, x)), abs=1e-12)
        assert exact.value == pytest.approx(float(orders.exp().mean().log()), abs=1e-12)
        assert (bound.stderr, exact.stderr) == (0.0, 0.0)
        assert bound.samples == exact.samples == 2**bed.length - 1


@pytest.mark.parametrize(("name", "visible"), [(name, n) for name, bed in BEDS.items() for n in range(bed.length)])
def test_t1_t12_all_of_them_are_the_probability_of_the_answer_under_the_oracle(name, visible):
    bed = BEDS[name]
    model = BedModel(bed, "oracle")
    for x in bed.sequences:
        prompt, answer = x[:visible], x[visible:]
        same = (bed.sequences[:, :visible] == prompt).all(dim=1)
        expected = float((bed.p[bed.index(x)] / bed.p[same].sum()).log())
        assert log_likelihood(model, prompt, answer, EVERYTHING).value == pytest.approx(expected, abs=1e-12)
        assert exact_log_likelihood(model, prompt, answer).value == pytest.approx(expected, abs=1e-12)
        for order in ("left_to_right", "right_to_left", "max_probability", "margin", "entropy"):
            found = ordered_log_likelihood(model, prompt, answer, order)
            assert found.value == pytest.approx(expected, abs=1e-12)
            assert found.samples == len(answer)


@pytest.mark.parametrize("name", BEDS)
def test_t10_random_order_likelihood_is_a_distribution_for_any_predictor(name):
    bed = BEDS[name]
    model = BedModel(bed, "bad")
    assert total([exact_log_likelihood(model, [], x).value for x in bed.sequences]) == pytest.approx(1, abs=1e-12)


def test_t10_published_values_and_gaps_of_the_bound(golden_folder):
    published = json.loads((golden_folder / "bed.json").read_text())["bad_random_order_ll"]
    model = BedModel(BED, "bad")
    gaps = []
    for x in BED.sequences:
        exact = exact_log_likelihood(model, [], x).value
        assert exact == pytest.approx(published["".join(map(str, x.tolist()))], abs=1e-12)
        gaps.append(exact - log_likelihood(model, [], x, EVERYTHING).value)
    assert min(gaps) == pytest.approx(3.76e-4, abs=1e-6)
    assert max(gaps) == pytest.approx(2.174e-2, abs=1e-5)


@pytest.mark.parametrize("name", BEDS)
@pytest.mark.parametrize("order", ["left_to_right", "right_to_left", "max_probability", "margin", "entropy"])
def test_t11_orders_that_look_at_the_state_alone_give_a_distribution(name, order):
    bed = BEDS[name]
    model = BedModel(bed, "bad")
    found = [ordered_log_likelihood(model, [], x, order).value for x in bed.sequences]
    assert total(found) == pytest.approx(1, abs=1e-9)


def test_t11_order_of_the_true_tokens_confidence_gives_none():
    """Why it is refused: over all answers it sums to more than 1."""
    found = []
    for x in BED.sequences:
        canvas, value = torch.full((1, 3), BED.mask), 0.0
        while (masked := (canvas[0] == BED.mask).nonzero()[:, 0]).numel():
            log_p = BED.bad(canvas)[0, masked, :3].log_softmax(dim=-1).gather(-1, x[masked][:, None])[:, 0]
            value += float(log_p.max())
            canvas[0, masked[log_p.argmax()]] = x[masked[log_p.argmax()]]
        found.append(value)
    assert total(found) == pytest.approx(1.1158994354, abs=1e-9)
    for order in ("confidence", "position_calibrated"):
        with pytest.raises(ValueError, match=f"order='{order}' looks at the answer's own tokens"):
            ordered_log_likelihood(BedModel(BED, "bad"), [], STAR, order)


def test_order_can_be_any_permutation():
    model = BedModel(BED, "bad")
    orders = list(itertools.permutations(range(3)))
    expected = by_all_orders(BED, BED.bad, STAR)
    found = [ordered_log_likelihood(model, [], STAR, order).value for order in orders]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] == ordered_log_likelihood(model, [], STAR).value


def test_equal_scores_go_leftmost():
    class Uniform:
        config = BedModel(BED, "bad").config

        def __call__(self, input_ids, *, attention_mask=None):
            seen.append(input_ids.tolist()[0])
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 4)})

    seen: list[list[int]] = []
    assert ordered_log_likelihood(Uniform(), [], STAR, "entropy").value == pytest.approx(-3 * math.log(3))
    assert seen == [[3, 3, 3], [2, 3, 3], [2, 1, 3]]


@pytest.mark.parametrize(("name", "predictor"), models())
@pytest.mark.parametrize("beta", [None, 7.5])
def test_t30_upper_bound_is_above_the_likelihood_of_any_predictor(name, predictor, beta):
    bed = BEDS[name]
    model = BedModel(bed, predictor)
    for x in bed.sequences:
        upper = exact_upper_bound(model, [], x, beta)
        assert upper.value >= exact_log_likelihood(model, [], x).value - 1e-12
        assert upper.samples == 2**bed.length - 1


class TwoTokens:
    """p(first) = 1, p(second) = 0, p(second | first) = 1, p(first | second) = 0 of the answer (0, 0)."""

    config = type("Config", (), {"mask_token_id": 2})

    def __call__(self, input_ids, *, attention_mask=None):
        certain, never = torch.tensor([[9.0, -torch.inf], [-torch.inf, 9.0]], dtype=torch.float64)
        logits = torch.full((*input_ids.shape, 3), -torch.inf, dtype=torch.float64)
        masked = input_ids == 2
        logits[:, 0, :2] = torch.where(masked[:, 1:], certain, never)
        logits[:, 1, :2] = torch.where(masked[:, :1], never, certain)
        return type("Output", (), {"logits": logits})


def test_t30_counter_example_for_small_beta():
    """With beta = 1 the formula gives 1/4 where the probability is 1/2; with beta = 2, the length, equality."""
    assert exact_log_likelihood(TwoTokens(), [], [0, 0]).value == pytest.approx(math.log(1 / 2), abs=1e-12)
    assert exact_upper_bound(TwoTokens(), [], [0, 0], 2).value == pytest.approx(math.log(1 / 2), abs=1e-12)
    with pytest.raises(ValueError, match=r"beta=1 gives no upper bound for an answer of 2 tokens; it must be"):
        exact_upper_bound(TwoTokens(), [], [0, 0], 1)


def test_batch_size_changes_nothing_but_the_number_of_calls(golden_folder):
    model = llada.load_pretrained(golden_folder / "tiny-mha")[0].double()
    prompt, answer = [5, 6, 7], [8, 9, 10, 11]
    for found in (exact_log_likelihood, exact_upper_bound, ordered_log_likelihood):
        one, many = (found(model, prompt, answer, batch_size=size).value for size in (1, 64))
        assert one == pytest.approx(many, abs=1e-12)
    assert exact_log_likelihood(model, prompt, answer).value >= log_likelihood(model, prompt, answer).value


@pytest.mark.parametrize("found", [exact_log_likelihood, exact_upper_bound, ordered_log_likelihood])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "the answer is empty"),
        ([1, 3], r"prompt and answer must not hold \[MASK\]"),
        ([1.5], r"answer must be token ids \(length,\), not torch.float32 \(1,\)"),
        ([[1]], r"answer must be token ids \(length,\), not torch.int64 \(1, 1\)"),
    ],
)
def test_impossible_answer_is_explained(found, answer, message):
    with pytest.raises(ValueError, match=message):
        found(BedModel(BED, "bad"), [], answer)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            "random",
            "order='random' is a mean over orders, which exact_log_likelihood gives; here: left",
        ),
        ("best", "unknown order 'best'; use one of left_to_right, right_to_left, max_probability, margin, entropy, or"),
        ([0, 1], r"order=\[0, 1\] must name each of the answer's positions 0..2 once"),
        ([0, 1, 1], r"order=\[0, 1, 1\] must name each"),
    ],
)
def test_impossible_order_is_explained(order, message):
    with pytest.raises(ValueError, match=message):
        ordered_log_likelihood(BedModel(BED, "bad"), [], STAR, order)


def test_answer_that_is_too_long_to_enumerate_is_explained():
    for found in (exact_log_likelihood, exact_upper_bound):
        with pytest.raises(ValueError, match=r"an answer of 17 tokens has 2\^17 - 1 masks; at most 16 tokens can be"):
            found(BedModel(BED, "bad"), [], [1] * 17)


@pytest.mark.parametrize("order", ["left_to_right", "max_probability"])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_an_error_in_every_order(odd, order):
    with pytest.raises(FloatingPointError, match="the model's logits are not numbers"):
        ordered_log_likelihood(BrokenModel(odd), [], STAR, order)
