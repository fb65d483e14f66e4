"""Two models on the same masks: their difference, how sure it is, and when that is sure enough."""

import math

import pytest
import torch
from bed import BED, BEDS
from bed_model import BedModel
from transformers import LlamaConfig, LlamaForCausalLM

import llada
from llada.estimate import Estimate
from llada.eval.causal import Causal, causal_log_likelihoods
from llada.eval.comparison import Comparison, Paired, compare, compare_rows, over_rows, until
from llada.eval.heldout import Row
from llada.eval.likelihood import log_likelihoods
from llada.eval.responses import Responses
from llada.eval.scoring import Request, request_of

ORACLE, BAD = BedModel(BED, "oracle"), BedModel(BED, "bad")


@pytest.fixture(scope="module")
def altered(golden_model):
    other = llada.LLaDAForMaskedLM(golden_model.config).double().eval()
    other.load_state_dict(golden_model.state_dict())
    with torch.no_grad():
        other.lm_head.weight.mul_(1.05)
    return other


@pytest.fixture(scope="module")
def causal():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, bos_token_id=1, max_position_embeddings=64,
                         initializer_range=0.3)  # fmt: skip
    return Causal(LlamaForCausalLM(config).double().eval())


def requests() -> list[Request]:
    """Of different lengths."""
    return [request_of(range(5, 5 + i), range(20, 30 + 2 * i)) for i in (3, 0, 5, 1)]


# A mask predictor and another


@pytest.mark.parametrize("name", BEDS)
def test_difference_is_that_of_the_bounds_where_all_masks_are_seen(name):
    bed = BEDS[name]
    first, second = BedModel(bed, "oracle"), BedModel(bed, "bad")
    asked = [request_of([], x) for x in bed.sequences]
    rounds = list(compare(first, second, asked, samples=15))
    assert len(rounds) == 1  # another one would tell nothing new
    for x, pair in zip(bed.sequences, rounds[0], strict=True):
        bounds = [-float(bed.nelbo(model.predict, x)) for model in (first, second)]
        assert [pair.first.value, pair.second.value] == pytest.approx(bounds, abs=1e-12)
        assert pair.difference == Estimate(pytest.approx(bounds[0] - bounds[1], abs=1e-12), 0.0, 2**bed.length - 1)


def test_models_are_compared_on_the_same_masks(golden_model, altered):
    same = next(compare(golden_model, golden_model, requests(), 8))
    assert [pair.difference for pair in same] == [Estimate(0.0, 0.0, 8)] * 4
    pairs = next(compare(golden_model, altered, requests(), 8, seed=2))
    ours, theirs = (list(log_likelihoods(model, requests(), 8, 2)) for model in (golden_model, altered))
    for pair, one, another in zip(pairs, ours, theirs, strict=True):
        assert pair.first == pytest.approx(one)
        assert pair.second == pytest.approx(another)
        assert pair.difference.value == pytest.approx(one.value - another.value, abs=1e-9)
        assert pair.difference.stderr < 0.5 * math.hypot(one.stderr, another.stderr)


def test_more_rounds_ask_only_what_is_not_yet_exact(golden_model, altered):
    asked = [*requests(), request_of([5], [6, 7])]  # the last one has 3 masks
    rounds = compare(golden_model, altered, asked, 8, batch_size=5)
    first, second, third = next(rounds), next(rounds), next(rounds)
    assert [pair.difference.samples for pair in first] == [8, 8, 8, 8, 3]
    assert [pair.difference.samples for pair in third] == [24, 24, 24, 24, 3]
    assert first[-1] == second[-1] == third[-1]
    for one, other in zip(first[:-1], third[:-1], strict=True):
        assert other.difference.stderr < one.difference.stderr
        assert other.difference.value != one.difference.value
    again = compare(golden_model, altered, asked[::-1], 8)
    next(again)
    for one, other in zip(second, next(again)[::-1], strict=True):
        assert one.difference == pytest.approx(other.difference, abs=1e-9)


def test_stated_error_of_the_masks_is_the_spread_over_seeds():
    """200 seeds: the spread is known to 5 %, so within 0.84..1.16 of the truth with probability 0.998."""
    bed = BEDS["L4V2"]
    rows = [Row([request_of([], x)]) for x in bed.sequences[:6]]
    models = BedModel(bed, "oracle"), BedModel(bed, "bad")
    found = [next(compare_rows(*models, rows, 5, seed)) for seed in range(200)]
    exact = next(compare_rows(*models, rows, 15)).difference.value
    values = torch.tensor([one.difference.value for one in found], dtype=torch.float64)
    spread = float(values.std())
    assert abs(float(values.mean()) - exact) < 5 * spread / math.sqrt(200)  # false alarm below 1e-6
    stated = math.sqrt(sum(one.of_masks**2 for one in found) / 200)
    assert 0.84 < stated / spread < 1.16 * 1.3  # of few strata it is too large by up to 1.3


class Counted(Responses):
    """Counts what is added, and dies where it is too much."""

    def __init__(self, folder, most: int | None = None):
        super().__init__(folder, {})
        self.most, self.added = most, 0

    def add(self, key, response):
        if self.added == self.most:
            raise KeyboardInterrupt
        super().add(key, response)
        self.added += 1


def test_a_comparison_that_was_killed_asks_only_what_is_missing(golden_model, altered, tmp_path):
    """Killed at the start, in either model, and in the second round."""

    def two_rounds(kept=None):
        rounds = compare(golden_model, altered, requests()[:3], 4, batch_size=1, kept=kept)
        return [next(rounds), next(rounds)]

    expected = two_rounds()
    for number in (0, 2, 5, 8):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            two_rounds(Counted(folder, number))
        again = Counted(folder)
        assert two_rounds(again) == expected
        assert again.added == 2 * 2 * 3 - number


# A causal model


@torch.no_grad()
def by_hand(causal: Causal, request: Request) -> float:
    """The chain rule, one token after another."""
    tokens, value = [1, *request.prompt.tolist()] if len(request.prompt) == 0 else request.prompt.tolist(), 0.0
    for token in request.answer.tolist():
        logits = causal.network(input_ids=torch.tensor([tokens])).logits[0, -1]
        value += float(logits.log_softmax(dim=-1)[token])
        tokens = [*tokens, token]
    return value


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_likelihood_of_a_causal_model_is_its_chain_rule(causal, batch_size):
    found = list(causal_log_likelihoods(causal, requests(), batch_size=batch_size))
    expected = [by_hand(causal, request) for request in requests()]
    assert [one.value for one in found] == pytest.approx(expected, abs=1e-10)
    assert {(one.stderr, one.samples) for one in found} == {(0.0, 1)}
    assert list(causal_log_likelihoods(causal, [])) == []


def test_bound_is_compared_with_a_likelihood(golden_model, causal):
    asked = [*requests(), request_of([5], [6, 7])]
    expected = [by_hand(causal, request) for request in asked]
    asking: list[int] = []

    def watch(missing):
        asking.append(len(missing))
        return missing

    rounds = compare(golden_model, causal, asked, 8, seed=1, watch=watch)
    for number, seen in ((1, [5, 5]), (2, [5, 5, 4])):  # the causal model is asked once
        pairs = next(rounds)
        assert asking == seen
        assert [pair.second.value for pair in pairs] == pytest.approx(expected, abs=1e-10)
        for pair in pairs[:-1]:
            assert pair.second.stderr == pytest.approx(0.0, abs=1e-12)
            assert (pair.first.samples, pair.second.samples) == (8 * number, 1)
            assert pair.difference.value == pytest.approx(pair.first.value - pair.second.value, abs=1e-10)
            assert pair.difference.stderr == pytest.approx(pair.first.stderr, abs=1e-12)
        assert pairs[-1].difference == Estimate(pytest.approx(pairs[-1].first.value - expected[-1], abs=1e-10), 0.0, 3)
    other_way = next(compare(causal, golden_model, asked, 8, seed=1))
    assert [pair.second.value for pair in other_way] == pytest.approx(
        [pair.first.value for pair in next(compare(golden_model, causal, asked, 8, seed=1))], abs=1e-9
    )


def test_two_causal_models_need_one_round(causal):
    rounds = list(compare(causal, causal, requests(), 8))
    assert len(rounds) == 1
    assert [pair.difference.value for pair in rounds[0]] == [0.0] * 4


@pytest.mark.parametrize(
    ("prompt", "answer", "message"),
    [
        ([5], [], "the answer is empty: its likelihood is 1 under every model"),
        ([5] * 40, [5] * 26, "65 tokens of prompt and answer exceed the model's 64; shorten them"),
    ],
)
def test_impossible_request_of_a_causal_model_is_explained(causal, prompt, answer, message):
    with pytest.raises(ValueError, match=message):
        list(causal_log_likelihoods(causal, [request_of(prompt, answer)]))


def test_causal_model_without_a_first_token_or_with_broken_weights_is_refused(causal):
    config = LlamaConfig(**causal.network.config.to_dict() | {"bos_token_id": None})
    other = Causal(LlamaForCausalLM(config).eval())
    with pytest.raises(ValueError, match="the model's config has no bos_token_id to predict the first token from"):
        list(causal_log_likelihoods(other, [request_of([], [5])]))
    with torch.no_grad():
        other.network.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the model's logits are not numbers"):
        list(causal_log_likelihoods(other, [request_of([4], [5])]))


# All rows together


def test_rows_are_summed_over_their_parts_and_divided_by_their_tokens():
    asked = [request_of(x[:k], x[k:]) for x, k in zip(BED.sequences[:6], (0, 1, 2, 0, 1, 2), strict=True)]
    rows = [Row(asked[:3]), Row(asked[3:5]), Row(asked[5:])]
    assert [row.tokens for row in rows] == [6, 5, 1]
    (found,) = compare_rows(ORACLE, BAD, rows, samples=7)
    pairs = next(compare(ORACLE, BAD, asked, 7))
    values = [sum(pair.first.value for pair in part) for part in (pairs[:3], pairs[3:5], pairs[5:])]
    assert found.first.value == pytest.approx(-sum(values) / 12)
    residuals = [-value - found.first.value * n for value, n in zip(values, (6, 5, 1), strict=True)]
    assert found.first.stderr == pytest.approx(math.sqrt(3 / 2 * sum(r**2 for r in residuals)) / 12)
    assert found.difference.value == pytest.approx(found.first.value - found.second.value)
    assert found.of_masks == 0.0
    assert found.of_rows == found.difference.stderr > 0
    assert found.first.samples == sum(pair.first.samples for pair in pairs)


def test_error_of_the_difference_holds_that_of_rows_and_masks(golden_model, altered):
    rows = [Row([request]) for request in requests()]
    found = next(compare_rows(golden_model, altered, rows, 8))
    pairs = next(compare(golden_model, altered, requests(), 8))
    tokens = sum(row.tokens for row in rows)
    assert found.of_masks == pytest.approx(math.hypot(*(pair.difference.stderr for pair in pairs)) / tokens)
    assert found.of_masks**2 + found.of_rows**2 == pytest.approx(max(found.difference.stderr, found.of_masks) ** 2)


def test_token_of_probability_0_is_named_by_its_row():
    sure = Estimate(-1.0, 0.0, 1)
    never = Estimate(-math.inf, math.inf, 1)
    pairs = [Paired(sure, sure, sure), Paired(sure, sure, sure), Paired(never, sure, never)]
    rows = [Row([request_of([], [1]), request_of([], [1])]), Row([request_of([], [1])])]
    with pytest.raises(FloatingPointError, match="row 2 has a token of probability 0; leave it out"):
        over_rows(rows, pairs)


def test_one_row_is_refused():
    with pytest.raises(ValueError, match="a standard error needs at least 2 rows, not 1"):
        next(compare_rows(ORACLE, BAD, [Row([request_of([], [1, 2])])]))


# When it is sure enough


def compared(of_rows: float, of_masks: float) -> Comparison:
    estimate = Estimate(1.0, math.hypot(of_rows, of_masks), 8)
    return Comparison(estimate, estimate, estimate, of_masks)


def test_rounds_end_when_the_error_is_small_or_that_of_the_rows():
    rounds = [compared(0.1, 1 / n) for n in range(1, 6)]
    assert until(iter(rounds), None) == rounds[0]
    assert until(iter(rounds), 1.1) == rounds[0]
    assert until(iter(rounds), 0.4) == rounds[2]
    assert until(iter(rounds), 0.11) == rounds[4]  # there are no more
    assert until(iter(rounds), 0.09) == rounds[0]  # so small it cannot become


def test_part_of_the_rows_is_nothing_where_the_masks_explain_all():
    assert compared(0.3, 0.4).of_rows == pytest.approx(0.3)
    assert Comparison(*[Estimate(1.0, 0.3, 8)] * 3, 0.4).of_rows == 0.0
