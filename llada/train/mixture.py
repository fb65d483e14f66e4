"""Several corpora in given proportions, as one data set whose order is a function of (seed, position) alone.

The stream is endless. Which corpus stands at a position follows from the weights alone: after n rows, for every n,
each corpus has given more than n w - 1 and less than n w + 1 of them. A corpus gives all its rows, in an order drawn
from the seed, before it gives one again in the next order. An epoch is as many rows of the stream as the corpora have
together, in whole batches; the next one goes on where it ends, so that a small corpus comes several times in an epoch,
and of a large one the next rows.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from heapq import heappop, heappush
from math import ceil, lcm

import numpy as np

from llada.train.batches import Rows
from llada.train.noise import pass_order

LONGEST_PATTERN = 2**20  # positions after which the choice of corpora repeats


class Mixture:
    """The rows of all corpora one after the other; `order` says which of them training takes, and when."""

    def __init__(self, corpora: Sequence[Rows], weights: Sequence[float]):
        """Weights are positive and relative to their sum; ValueError for others, and for corpora without rows."""
        if len(corpora) != len(weights) or not corpora:
            raise ValueError(f"{len(corpora)} corpora and {len(weights)} weights: give each corpus one weight")
        sizes = [len(corpus) for corpus in corpora]
        if 0 in sizes:
            raise ValueError(f"corpus {sizes.index(0)} has no rows: leave it out")
        self.corpora = list(corpora)
        self.pattern = quota_pattern(weights)  # which corpus, repeated for ever
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Mapping[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} does not exist: the rows are 0 to {len(self) - 1}")
        corpus = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.corpora[corpus][index - int(self._starts[corpus])]

    def order(self, seed: int, epoch: int, size: int) -> np.ndarray:
        """The rows at positions `epoch * size` to `(epoch + 1) * size - 1` of the stream, int64 (size,)."""
        first = epoch * size
        chosen = self._chosen(first, size)
        rows = np.empty(size, np.int64)
        for corpus, rows_of_corpus in enumerate(self.corpora):
            at = np.flatnonzero(chosen == corpus)
            if len(at):
                used, length = self._used(corpus, first), len(rows_of_corpus)
                passes = range(used // length, (used + len(at) - 1) // length + 1)
                visits = np.concatenate([pass_order(seed, corpus, number, length) for number in passes])
                begin = used - passes[0] * length
                rows[at] = self._starts[corpus] + visits[begin : begin + len(at)]
        return rows

    def without_repetition(self) -> np.ndarray:
        """The longest beginning of the stream in which no corpus repeats, each in its own order; for held-out data."""
        chosen = self._chosen(0, len(self))
        size = len(self)
        for corpus, rows in enumerate(self.corpora):
            size = min([size, *np.flatnonzero(chosen == corpus)[len(rows) : len(rows) + 1].tolist()])
        found = np.empty(size, np.int64)
        for corpus in range(len(self.corpora)):
            at = np.flatnonzero(chosen[:size] == corpus)
            found[at] = self._starts[corpus] + np.arange(len(at))
        return found

    def _chosen(self, first: int, size: int) -> np.ndarray:
        return self.pattern[(first + np.arange(size)) % len(self.pattern)]

    def _used(self, corpus: int, position: int) -> int:
        """How many rows a corpus has given before a position."""
        whole, rest = divmod(position, len(self.pattern))
        mine = self.pattern == corpus
        return whole * int(mine.sum()) + int(mine[:rest].sum())


def quota_pattern(weights: Sequence[float]) -> np.ndarray:
    """Which of the weighted items comes when, (period,): after n turns each has had n w turns, to less than one.

    Turn j of an item must not come before turn `floor(j / w)` of all, nor after turn `ceil((j + 1) / w) - 1`, all
    counted from 0: these are unit jobs with release times and deadlines, and the earliest deadline first meets them all
    (proportionate fairness, Baruah et al., 1996).
    """
    if any(not weight > 0 or weight == float("inf") for weight in weights):
        raise ValueError(f"weights {list(weights)} must be positive numbers")
    exact = [Fraction(str(weight)) for weight in weights]  # as written: 0.1 is a tenth
    shares = [weight / sum(exact) for weight in exact]
    period = lcm(*(share.denominator for share in shares))
    if period > LONGEST_PATTERN:
        raise ValueError(f"weights {list(weights)} have too many digits: round them, for example to 0.01")
    released: list[list[tuple[int, int]]] = [[] for _ in range(period)]  # turn → (deadline, item)
    for item, share in enumerate(shares):
        for turn in range(int(share * period)):
            released[int(turn / share)].append((ceil((turn + 1) / share), item))
    ready: list[tuple[int, int]] = []
    pattern = np.empty(period, np.int32)
    for turn in range(period):
        for job in released[turn]:
            heappush(ready, job)
        pattern[turn] = heappop(ready)[1]
    return pattern
