"""Statistics of generated texts, by hand."""

import math

import pytest

from llada.eval.metrics import description, distinct, ends, generative_perplexity, repetition, unigram_entropy


def test_entropy_counts_tokens():
    assert unigram_entropy([1, 1, 2, 3]) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    assert unigram_entropy([7, 7, 7]) == 0
    assert unigram_entropy([]) == 0


def test_n_grams_that_come_again_are_repeated_and_not_distinct():
    text = [1, 2, 1, 2, 3]  # 12 21 12 23
    assert distinct([text], 2) == 3 / 4
    assert repetition(text, 2) == 1 / 4
    assert distinct([text, [1, 2]], 2) == 3 / 5
    assert repetition([1], 2) == distinct([[1]], 2) == 0
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        distinct([text], 0)


def test_ends_are_counted():
    assert ends([[1, 2], [1, 2, 3, 4]], [True, False]) == (0.5, 3.0)
    with pytest.raises(ValueError, match="there are no texts"):
        ends([], [])


def test_perplexity_comes_with_entropy():
    found = generative_perplexity([[1, 1], [1, 2]], [-1.0, -3.0])
    assert found == pytest.approx((math.e, math.log(2) / 2))
    with pytest.raises(ValueError, match="the texts hold no tokens"):
        generative_perplexity([[]], [0.0])


def test_a_description_holds_all_of_it():
    assert description([[1, 2, 1, 2, 1, 2], []], [True, True]) == pytest.approx(
        {
            "unigram_entropy": math.log(2) / 2,
            "distinct_2": 2 / 5,
            "repetition_4": (1 - 2 / 3) / 2,
            "ended": 1,
            "tokens": 3,
        }
    )
