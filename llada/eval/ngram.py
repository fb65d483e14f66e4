"""Unigram and bigram cross-entropy: what a model without context, or with one token of it, makes of a text.

A likelihood bound means little alone; below these two, a model uses more context than its neighbour to the left.
"""

import numpy as np


def unigram_cross_entropy(train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> float:
    """Nats per token of `heldout` (int, (M,)) under the token frequencies of `train` (int, (N,)), plus one each."""
    return float(-np.log(_unigram(train, vocab_size)[heldout]).mean())


def bigram_cross_entropy(train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> float:
    """Nats per token of `heldout` given the token before, estimated on `train`, without its first token.

    Interpolated with the unigram as in Witten and Bell (1991): a context seen n times with d different successors
    gives weight d / (n + d) to the unigram, so that no pair has probability 0. Both texts are int (N,) and (M,).
    """
    pairs, counts = np.unique(train[:-1].astype(np.int64) * vocab_size + train[1:], return_counts=True)
    seen = np.bincount(pairs // vocab_size, weights=counts, minlength=vocab_size)  # n of each context
    different = np.bincount(pairs // vocab_size, minlength=vocab_size)  # d of each context
    context, token = heldout[:-1].astype(np.int64), heldout[1:]
    wanted = context * vocab_size + token
    place = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
    count = np.where(pairs[place] == wanted, counts[place], 0)
    backed_off = _unigram(train, vocab_size)[token]
    mass = seen[context] + different[context]
    probability = np.where(mass > 0, (count + different[context] * backed_off) / np.maximum(mass, 1), backed_off)
    return float(-np.log(probability).mean())


def _unigram(train: np.ndarray, vocab_size: int) -> np.ndarray:
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return counts / counts.sum()
