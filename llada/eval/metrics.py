"""What generated texts are like, whether right or wrong: diversity, repetition, and where they end.

Generative perplexity alone prefers a text that repeats itself, so it comes with the entropy (arXiv:2409.02908).

Shapes: N texts, each a list of token ids up to its end.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

Tokens = Sequence[int]


def unigram_entropy(text: Tokens) -> float:
    """Entropy in nats of the tokens of one text; 0 where all are equal, and for an empty one."""
    return sum(-n / len(text) * math.log(n / len(text)) for n in Counter(text).values())


def distinct(texts: Sequence[Tokens], n: int) -> float:
    """Distinct n-grams of all texts, as a share of all their n-grams; 0 where there are none."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(text: Tokens, n: int) -> float:
    """Share of the n-grams of one text that stood in it before; 0 where there are none."""
    grams = _grams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class Ends(NamedTuple):
    """Where texts end."""

    share: float  # of texts that ended by themselves, before their tokens were used up
    length: float  # tokens up to the end, on average


def ends(texts: Sequence[Tokens], ended: Sequence[bool]) -> Ends:
    """Raises ValueError where there are no texts."""
    if not texts:
        raise ValueError("there are no texts to look at")
    return Ends(sum(ended) / len(ended), sum(map(len, texts)) / len(texts))


class GenerativePerplexity(NamedTuple):
    """Never one without the other: texts that repeat themselves have a low perplexity and a low entropy."""

    perplexity: float  # per token, exp of the mean negative log-likelihood under a judge
    entropy: float  # nats, the mean over texts


def generative_perplexity(texts: Sequence[Tokens], log_likelihoods: Sequence[float]) -> GenerativePerplexity:
    """Of texts, from their log-likelihoods (N,) in nats under another model. Raises ValueError for no tokens at all."""
    tokens = sum(map(len, texts))
    if not tokens:
        raise ValueError("the texts hold no tokens, so they have no perplexity")
    entropy = sum(map(unigram_entropy, texts)) / len(texts)
    return GenerativePerplexity(math.exp(-math.fsum(log_likelihoods) / tokens), entropy)


def description(texts: Sequence[Tokens], ended: Sequence[bool]) -> dict[str, float]:
    """All of it by name, means over texts."""
    end = ends(texts, ended)
    return {
        "unigram_entropy": sum(map(unigram_entropy, texts)) / len(texts),
        "distinct_2": distinct(texts, 2),
        "repetition_4": sum(repetition(text, 4) for text in texts) / len(texts),
        "ended": end.share,
        "tokens": end.length,
    }


def _grams(text: Tokens, n: int) -> list[tuple[int, ...]]:
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
