"""Shares of right answers with their 95 % intervals (`llada.eval.intervals.wilson`), in words and as error bars."""

from collections.abc import Iterable, Mapping
from typing import Any

from llada.eval.intervals import wilson


def percent(right: int, rows: int) -> str:
    """The share and its interval."""
    low, high = wilson(right, rows)
    return f"{right / rows:.1%} ({low:.1%}–{high:.1%})"


def percent_of(score: Mapping[str, Any]) -> str:
    """The same of what counts its `right` answers among its `rows`."""
    return percent(score["right"], score["rows"])


def tokens_of(score: Mapping[str, Any]) -> str:
    """The mean tokens of an answer, with two standard errors."""
    return f"{score['tokens']:.1f} ± {2 * score['tokens_stderr']:.1f}"


def error_bars(counts: Iterable[tuple[int, int]]) -> tuple[list[float], list[list[float]]]:
    """Shares in per cent of (right, rows), and how far their intervals reach below and above, as matplotlib has it."""
    shares, below, above = [], [], []
    for right, rows in counts:
        share, interval = 100 * right / rows, wilson(right, rows)
        shares.append(share)
        below.append(share - 100 * interval.low)
        above.append(100 * interval.high - share)
    return shares, [below, above]
