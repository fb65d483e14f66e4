"""Estimates of the bound: exact where they can be, the same whatever shares a batch, or an error that says why."""

import math

import pytest
import torch
from bed import BED, BEDS, STAR
from bed_model import BedModel, BrokenModel

from llada.estimate import Estimate
from llada.eval.likelihood import (
    log_likelihood,
    log_likelihoods,
    perplexity,
    rolling_log_likelihood,
)
from llada.eval.scoring import Request, request_of

LONG = BEDS["L4V2"]  # 15 masks
X = torch.tensor([1, 0, 0, 1])


def requests() -> list[Request]:
    """Of different lengths."""
    return [request_of(range(5, 5 + i), range(20, 30 + 2 * i)) for i in (3, 0, 5, 1)]


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
    several = list(log_likelihoods(golden_model, [one, one], 8, precision=1e-9, max_samples=30))
    assert several == [capped, capped]


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
    fine = rolling_log_likelihood(golden_model, document, 10, 4, 8, precision=found.stderr / 3)
    assert 0 < fine.stderr <= found.stderr / 3
    assert fine.samples > found.samples


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
        ([5] * 200, [5] * 60, 8, "260 tokens of prompt and answer exceed the model's .*; shorten the prompt or"),
        ([5], [5] * 9, 1, "samples=1 of an answer of 9 tokens: a standard error needs at least 2 evaluations"),
        ([5], [5] * 9, 0, "samples=0 must be a whole number of at least 1"),
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


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_an_error(odd):
    with pytest.raises(FloatingPointError, match="the model's logits are not numbers"):
        log_likelihood(BrokenModel(odd), [], STAR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": None}, "seed=None must be a whole number"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"seed": "x"}, "seed='x' must be a whole number"),
        ({"samples": 8.5}, "samples=8.5 must be a whole number of at least 1"),
        ({"samples": 0}, "samples=0 must be a whole number of at least 1"),
        ({"precision": -1.0}, "precision=-1.0 must be above 0, in nats"),
        ({"precision": math.nan}, "precision=nan must be above 0"),
        ({"max_samples": 64}, "max_samples=64 has no effect without precision; give that, or samples alone"),
        ({"precision": 0.1, "max_samples": 0}, "max_samples=0 must be a whole number of at least 1"),
        ({"precision": 0.1, "max_samples": 127}, "max_samples=127 is less than a round of samples=128; give fewer"),
        ({"cfg_scale": -5.0}, "cfg_scale=-5.0 must lie between 0, no guidance, and 1e6"),
        ({"cfg_scale": math.nan}, "cfg_scale=nan must lie"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"prompt": "a text"}, "prompt='a text' must be token ids \\(length,\\); encode a text first"),
        ({"answer": [[1], [2, 3]]}, "answer=.* must be token ids"),
    ],
)
def test_numbers_that_ask_for_nothing_are_refused(golden_model, options, message):
    how = {"prompt": [5, 6], "answer": list(range(20, 28))} | options
    with pytest.raises(ValueError, match=message):
        log_likelihood(golden_model, **how)
    if not {"prompt", "answer"} & set(options):
        with pytest.raises(ValueError, match=message):
            list(log_likelihoods(golden_model, [request_of(how["prompt"], how["answer"])], **options))


def test_texts_too_long_to_score_are_told_what_can_be_shortened(golden_model):
    with pytest.raises(ValueError, match=r"exceed the model's .*; shorten the prompt or the answer$"):
        log_likelihood(golden_model, [5] * 3000, [5])
