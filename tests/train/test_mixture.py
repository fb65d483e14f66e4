"""Mixtures: exact proportions after every row, whole passes through every corpus, nothing that depends on the split."""

from fractions import Fraction

import numpy as np
import pytest

from llada.train.batches import Batches
from llada.train.mixture import Mixture, quota_pattern
from llada.train.objectives import Noise
from llada.train.state import fingerprint

MASK, PAD = 0, 1


class Corpus:
    """Rows that say which corpus and which row they are."""

    def __init__(self, number: int, size: int):
        self.number, self.size = number, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x0": np.array([10 + self.number, 100 + index, 5, 6])}


def mixture(sizes=(40, 7, 3), weights=(0.5, 0.3, 0.2)) -> Mixture:
    return Mixture([Corpus(number, size) for number, size in enumerate(sizes)], weights)


WEIGHTS = [
    (1, 1),
    (0.7, 0.3),
    (0.5, 0.3, 0.2),
    (3, 3, 3),
    (0.34, 0.33, 0.33),
    (0.9, 0.02, 0.03, 0.05),
    (0.123, 0.456, 0.789),
    (0.26, 0.25, 0.24, 0.13, 0.12),
    (10, 1, 1, 1, 1, 1, 1, 1),
    (5, 5, 5, 1, 1, 1, 1),
    (1000, 1),
    tuple(range(1, 30)),
]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_after_every_row_each_corpus_has_had_its_share_to_less_than_one(weights):
    exact = [Fraction(str(weight)) for weight in weights]
    pattern = quota_pattern(weights)
    n = np.arange(1, len(pattern) + 1)
    for item, weight in enumerate(exact):
        share = weight / sum(exact)
        used = np.cumsum(pattern == item)
        # exactly, in whole numbers: |used - n w| < 1
        assert (np.abs(used * share.denominator - n * share.numerator) < share.denominator).all()
        assert used[-1] == len(pattern) * share  # so that it holds in all repetitions


def test_random_weights_keep_their_shares_too():
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.integers(1, 60, rng.integers(1, 9)).tolist()
        pattern = quota_pattern(weights)
        used = np.cumsum(pattern[:, None] == np.arange(len(weights)), axis=0)
        n = np.arange(1, len(pattern) + 1)[:, None]
        assert (np.abs(used * sum(weights) - n * np.array(weights)) < sum(weights)).all(), weights


def stream(mixed: Mixture, rows: int, size: int, seed: int = 0) -> np.ndarray:
    """The first rows of the stream, from epochs of a size."""
    return np.concatenate([mixed.order(seed, epoch, size) for epoch in range(-(-rows // size))])[:rows]


def test_order_is_one_stream_whatever_the_length_of_epochs():
    mixed = mixture()
    expected = stream(mixed, 600, 600)
    for size in (1, 7, 50, 48):
        assert (stream(mixed, 600, size) == expected).all()
    assert (stream(mixed, 600, 50, seed=1) != expected).any()


def test_every_row_of_a_corpus_is_used_once_before_any_is_used_twice():
    mixed = mixture()
    rows = stream(mixed, 1000, 50)
    for start, size, share in ((0, 40, 0.5), (40, 7, 0.3), (47, 3, 0.2)):
        mine = rows[(rows >= start) & (rows < start + size)] - start
        assert len(mine) == 1000 * share
        passes = [mine[i : i + size].tolist() for i in range(0, len(mine) - size + 1, size)]
        assert len(passes) >= 12
        assert all(sorted(visited) == list(range(size)) for visited in passes)
        assert len({tuple(visited) for visited in passes}) > 3  # another order each time


def visited(batches: Batches, processes: int, start: int, stop: int) -> list[list]:
    streams = [list(batches.micro_batches(rank, processes, start, stop)) for rank in range(processes)]
    found = [b for step in range(stop - start) for s in streams for b in s[step]]
    rows = []
    for batch in found:
        xt = batch.call.inputs["input_ids"]
        x0 = xt.masked_scatter(xt == MASK, batch.call.targets)
        rows += zip(x0.tolist(), xt.tolist(), batch.places, strict=True)
    return [list(row) for row in rows]


@pytest.mark.parametrize(("processes", "micro", "workers"), [(1, 1, 0), (2, None, 0), (2, 2, 2), (4, 1, 0)])
def test_batches_of_a_mixture_do_not_depend_on_the_split_and_go_on_exactly(processes, micro, workers):
    mixed = mixture()
    reference = visited(Batches(mixed, 8, Noise(MASK, PAD, seed=3), order=mixed.order), 1, 0, 15)
    batches = Batches(mixed, 8, Noise(MASK, PAD, seed=3), micro, workers, order=mixed.order)
    assert batches.per_epoch == 6  # 50 rows, in whole batches
    assert visited(batches, processes, 0, 15) == reference
    assert visited(batches, processes, 7, 15) == reference[7 * 8 :]
    used = np.cumsum([[x0[0] - 10 == corpus for corpus in range(3)] for x0, _, _ in reference], axis=0)
    n = np.arange(1, len(used) + 1)[:, None]
    assert (np.abs(10 * used - n * [5, 3, 2]) < 10).all()  # in what training sees, over epochs
    assert [batches.row(place) for _, _, place in reference] == stream(mixed, 120, 48, seed=3).tolist()


def test_a_mixture_is_its_corpora_one_after_the_other():
    mixed = mixture()
    assert [mixed[i]["x0"].tolist()[:2] for i in (0, 39, 40, 46, 47, 49)] == [
        [10, 100], [10, 139], [11, 100], [11, 106], [12, 100], [12, 102]]  # fmt: skip
    assert len(list(mixed)) == len(mixed) == 50
    for index in (-1, 50):
        with pytest.raises(IndexError, match=f"row {index} does not exist: the rows are 0 to 49"):
            mixed[index]
    assert fingerprint(mixed) != fingerprint(mixture(sizes=(39, 8, 3)))


def test_held_out_rows_keep_the_proportions_and_never_repeat():
    mixed = mixture(sizes=(40, 7, 3))
    rows = mixed.without_repetition().tolist()
    corpora = [sum(start <= row < stop for row in rows) for start, stop in ((0, 40), (40, 47), (47, 50))]
    assert corpora[2] == 3  # the first to end
    assert len(set(rows)) == len(rows)
    assert all(abs(count - len(rows) * share) < 1 for count, share in zip(corpora, (0.5, 0.3, 0.2), strict=True))
    assert [row for row in rows if row < 40] == list(range(corpora[0]))
    assert sorted(mixture((5, 5), (1, 1)).without_repetition().tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ((4, 4), (1,), "2 corpora and 1 weights: give each corpus one weight"),
        ((), (), "0 corpora and 0 weights"),
        ((4, 0), (1, 1), "corpus 1 has no rows: leave it out"),
        ((4, 4), (1, 0), r"weights \[1, 0\] must be positive numbers"),
        ((4, 4), (1, float("nan")), "must be positive numbers"),
        ((4, 4), (1, float("inf")), "must be positive numbers"),
        ((4, 4), (0.123456789, 0.1), r"have too many digits: round them, for example to 0.01"),
    ],
)
def test_impossible_mixtures_are_refused(sizes, weights, message):
    with pytest.raises(ValueError, match=message):
        mixture(sizes, weights)
