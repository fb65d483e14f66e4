"""The n-gram baselines against their definition and against exact entropies."""

import copy

import numpy as np
import pytest

from llada.eval.answers import answer, exact_match, left_padded
from llada.eval.ngram import bigram_cross_entropy, unigram_cross_entropy


def chain(length: int, seed: int) -> np.ndarray:
    """A two-state Markov chain that stays with probability 0.9."""
    flips = np.random.default_rng(seed).random(length) < 0.1
    return np.cumsum(flips) % 2


def test_unigram_of_a_fair_chain_is_one_bit():
    assert unigram_cross_entropy(chain(20_000, 0), chain(20_000, 1), 2) == pytest.approx(np.log(2), abs=0.01)


def test_bigram_of_a_chain_is_its_entropy_rate():
    rate = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert bigram_cross_entropy(chain(50_000, 0), chain(50_000, 1), 2) == pytest.approx(rate, abs=0.01)


def test_bigram_probabilities_sum_to_one_in_seen_and_unseen_contexts():
    train = np.array([0, 1, 0, 2, 0, 1])
    for context in range(4):
        each = [np.exp(-bigram_cross_entropy(train, np.array([context, token]), 4)) for token in range(4)]
        assert sum(each) == pytest.approx(1)


def test_left_padding_marks_what_is_real():
    tokens, mask = left_padded([[5, 6, 7], [8]], 0)
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_tokenizer_without_a_token_of_padding_pads_with_the_end_of_sequence(asked, monkeypatch):
    conversations = [[{"role": "user", "content": text}] for text in ("What is 1 plus 2?", "What?")]
    expected = answer(asked.model, asked.tokenizer, conversations, asked.base)
    bare = copy.deepcopy(asked.tokenizer)
    bare.pad_token = None
    assert answer(asked.model, bare, conversations, asked.base) == expected
    monkeypatch.setattr(asked.model.config, "eos_token_id", None)
    with pytest.raises(ValueError, match=r"padding needs model\.config.eos_token_id, which is not set"):
        answer(asked.model, bare, conversations, asked.base)


def test_exact_match_ignores_blanks_around_an_answer():
    assert exact_match([" 3 ", "4"], ["3", "5"]) == 0.5
    with pytest.raises(ValueError, match="no answers"):
        exact_match([], [])
