"""A number, how far off it is likely to be, and what it cost: what every measurement of a bound gives."""

import math
from typing import NamedTuple

from torch import Tensor


class Curve(NamedTuple):
    """The mean cross-entropy per masked token, in nats, where so large a share is masked."""

    mask_ratios: list[float]  # ascending, means over equal steps
    losses: list[float]


class Estimate(NamedTuple):
    """A mean with its standard error."""

    value: float
    stderr: float  # one standard error of the value; 0 where it is exact
    samples: int  # network evaluations behind it; guidance makes two of each
    curve: Curve | None = None  # what was seen on the way, of held-out rows in training


def per_token(sums: Tensor, lengths: Tensor, samples: int) -> Estimate:
    """The sum of all rows over the number of their tokens, with its standard error over rows.

    The error is that of a ratio of means (Cochran, Sampling Techniques, 1977, section 2.11), and holds whatever makes
    rows differ, the masks included.

    Args:
        sums: (N,) of each row, over its tokens.
        lengths: (N,) tokens.
        samples: network evaluations behind all of it.

    Raises ValueError as `check_rows`.
    """
    N = len(sums)
    check_rows(N)
    value = sums.sum() / lengths.sum()
    if value.isinf():  # a token that the model holds to be impossible
        return Estimate(float(value), math.inf, samples)
    residuals = sums - value * lengths
    stderr = (residuals.square().sum() * N / (N - 1)).sqrt() / lengths.sum()
    return Estimate(float(value), float(stderr), samples)


def check_rows(rows: int) -> None:
    """Raise ValueError where there are too few rows for a standard error over them."""
    if rows < 2:
        raise ValueError(f"a standard error needs at least 2 rows, not {rows}")
