"""Two-sided 95 % intervals: of a mean by its standard error, of a share by its score (Wilson, JASA 22, 1927), and of
what is lost between paired answers (Tango, Statistics in Medicine 17, 1998), which is the same one for pairs.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

Z = NormalDist().inv_cdf(0.975)


class Interval(NamedTuple):
    low: float
    high: float


def around(mean: float, stderr: float) -> Interval:
    """The values that a mean of many does not contradict; of fewer than 30 rows it is a little too narrow."""
    return Interval(mean - Z * stderr, mean + Z * stderr)


def wilson(right: int, rows: int) -> Interval:
    """The shares that `right` of `rows` independent answers do not contradict."""
    if not 0 <= right <= rows or rows == 0:
        raise ValueError(f"right={right} of rows={rows}: a share needs 0 <= right <= rows, and at least one row")
    share, spread = right / rows, Z**2 / rows
    middle = share + spread / 2
    width = math.sqrt(spread * (share * (1 - share) + spread / 4))
    # rounding must not take an interval past what is its end
    low = 0.0 if right == 0 else (middle - width) / (1 + spread)
    return Interval(low, 1.0 if right == rows else (middle + width) / (1 + spread))


def loss_limit(lost: int, won: int, rows: int) -> float:
    """The most that the share of right answers may have dropped, from one sampler to another on the same rows.

    The upper end of Tango's interval for the drop, whose estimate is (lost - won) / rows. The chance that it lies below
    the true drop is nominally 2.5 %; enumerated for drops up to 0.2, it is at most 3.9 % from 30 rows on.

    Args:
        lost: rows that the first sampler got right, and the second one wrong.
        won: the other way round.
    """
    if min(lost, won) < 0 or lost + won > rows or rows == 0:
        raise ValueError(f"lost={lost} and won={won} of rows={rows}: they are parts of one or more rows")
    low, high = (lost - won) / rows, 1.0
    for _ in range(50):  # bisection: the score falls with the drop that is supposed
        middle = (low + high) / 2
        low, high = (middle, high) if _score(lost, won, rows, middle) > -Z else (low, middle)
    return high


def least_loss_limit(rows: int) -> float:
    """`loss_limit` where not a single answer differs: what so many rows cannot show to be less."""
    return Z**2 / (rows + Z**2)


def rows_to_show(limit: float) -> int:
    """The fewest rows whose `least_loss_limit` is no more than this, which lies between 0 and 1."""
    return math.ceil(Z**2 * (1 / limit - 1))


def _score(lost: int, won: int, rows: int, drop: float) -> float:
    """(lost - won) in standard deviations from what is expected, were `drop` the truth; Tango's equation 2."""
    b = lost + won - drop * (2 * rows - lost + won)
    likeliest = (b + math.sqrt(max(b**2 + 8 * rows * won * drop * (1 - drop), 0.0))) / (4 * rows)  # share of won
    variance = rows * (2 * max(likeliest, 0.0) + drop * (1 - drop))
    distance = lost - won - rows * drop
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)
