"""Noticing that training goes wrong before it is lost."""

from collections.abc import Sequence
from statistics import median

_WINDOW, _ENOUGH = 128, 32  # steps looked back at, and needed before anything is said


def spike(losses: Sequence[float], loss: float) -> float:
    """How far `loss` lies above the latest losses, in robust standard deviations; 0 while there are too few.

    Median and median absolute deviation, so that one spike does not hide the next.
    """
    recent = losses[-_WINDOW:]
    if len(recent) < _ENOUGH:
        return 0.0
    middle = median(recent)
    spread = 1.4826 * median(abs(value - middle) for value in recent)  # a standard deviation, for normal losses
    return max(0.0, (loss - middle) / max(spread, 1e-12))
