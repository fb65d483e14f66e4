"""The intervals against published values, their definition, and the enumeration of all outcomes."""

import math

import numpy as np
import pytest

from llada.eval.intervals import Z, around, least_loss_limit, loss_limit, rows_to_show, wilson


def test_interval_around_a_mean_is_1_96_errors_wide_on_each_side():
    assert around(2.0, 0.5) == pytest.approx((2 - 0.5 * 1.959964, 2 + 0.5 * 1.959964), abs=1e-6)
    assert around(2.0, 0.0) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_has_the_published_values(right, rows, low, high):
    """Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3."""
    assert wilson(right, rows) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("rows", [1, 2, 7, 50])
def test_ends_of_wilson_are_the_shares_that_are_just_not_contradicted(rows):
    for right in range(rows + 1):
        low, high = wilson(right, rows)
        assert 0 <= low <= right / rows <= high <= 1
        for end in {low, high} - {0.0, 1.0}:
            assert abs(right / rows - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / rows), rel=1e-9)


def test_wilson_covers_the_truth_in_95_percent_of_cases_on_average():
    rows, shares = 30, np.linspace(0.005, 0.995, 199)
    intervals = [wilson(right, rows) for right in range(rows + 1)]
    coverage = [
        sum(
            math.comb(rows, k) * p**k * (1 - p) ** (rows - k)
            for k, (low, high) in enumerate(intervals)
            if low <= p <= high
        )
        for p in shares
    ]
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
    assert min(coverage) > 0.83


def trinomial(rows: int, lost: float, won: float) -> np.ndarray:
    """Probability of each number of lost and won rows, (rows + 1, rows + 1), given the chance of either in a row."""
    log = np.full((rows + 1, rows + 1), -np.inf)
    for b in range(rows + 1):
        for c in range(rows + 1 - b):
            d = rows - b - c
            if all(n == 0 or p > 1e-12 for n, p in ((b, lost), (c, won), (d, 1 - lost - won))):
                log[b, c] = math.lgamma(rows + 1) - sum(math.lgamma(n + 1) for n in (b, c, d)) + sum(
                    n * math.log(p) for n, p in ((b, lost), (c, won), (d, 1 - lost - won)) if n
                )  # fmt: skip
    return np.exp(log)


def test_trinomial_of_this_file_is_a_distribution_with_its_mean():
    p = trinomial(9, 0.3, 0.2)
    assert p.sum() == pytest.approx(1)
    assert (p.sum(axis=1) @ np.arange(10), p.sum(axis=0) @ np.arange(10)) == pytest.approx((2.7, 1.8))


@pytest.mark.parametrize("rows", [30, 60])
def test_limit_is_below_the_true_drop_in_at_most_4_percent_of_cases(rows):
    """The docstring's 3.9 %, enumerated over outcomes, true drops and shares of rows that are won."""
    limits = np.full((rows + 1, rows + 1), np.inf)
    for b in range(rows + 1):
        for c in range(rows + 1 - b):
            limits[b, c] = loss_limit(b, c, rows)
    misses = [
        trinomial(rows, won + drop, won)[limits < drop].sum()
        for drop in (0.02, 0.05, 0.08, 0.12, 0.155, 0.2)
        for won in (1 - drop) / 2 * np.array([0, 0.02, 0.1, 0.3, 0.7, 1])
    ]
    assert max(misses) < 0.039
    assert max(misses) > 0.015  # and not idly far above


@pytest.mark.parametrize(("lost", "won", "rows"), [(0, 0, 50), (3, 1, 50), (1, 3, 50), (10, 10, 50), (2, 0, 9)])
def test_limit_is_the_drop_that_is_just_not_contradicted(lost, won, rows):
    """The score, with the likeliest share of won rows found by search instead of the quadratic equation."""
    drop = loss_limit(lost, won, rows)
    shares = np.linspace(0, (1 - drop) / 2, 400_001)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logp = lost * np.log(shares + drop) + (rows - lost - won) * np.log(1 - 2 * shares - drop)
        logp = logp + won * np.log(shares) if won else logp
    share = shares[np.nanargmax(logp)]
    variance = rows * (2 * share + drop - drop**2)
    assert (lost - won - rows * drop) / math.sqrt(variance) == pytest.approx(-Z, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_limit_without_won_rows_is_that_of_a_share(rows):
    for lost in range(rows + 1):
        assert loss_limit(lost, 0, rows) == pytest.approx(wilson(lost, rows).high, abs=1e-9)
    assert least_loss_limit(rows) == pytest.approx(loss_limit(0, 0, rows), abs=1e-9)


@pytest.mark.parametrize("limit", [0.001, 0.05, 0.3, 0.999])
def test_rows_to_show_a_limit_are_the_fewest_that_do(limit):
    rows = rows_to_show(limit)
    assert least_loss_limit(rows) <= limit
    assert rows == 1 or least_loss_limit(rows - 1) > limit


def test_limit_rises_with_lost_rows_and_falls_with_won_ones():
    rows = 12
    limits = {(b, c): loss_limit(b, c, rows) for b in range(rows + 1) for c in range(rows + 1 - b)}
    for (b, c), limit in limits.items():
        assert (b - c) / rows <= limit <= 1
        assert limits.get((b + 1, c), 1) >= limit
        assert limits.get((b, c + 1), -1) <= limit


@pytest.mark.parametrize("wrong", [(-1, 5), (6, 5), (0, 0)])
def test_shares_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=f"right={wrong[0]} of rows={wrong[1]}"):
        wilson(*wrong)


@pytest.mark.parametrize("wrong", [(-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)])
def test_limits_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="they are parts of"):
        loss_limit(*wrong)
