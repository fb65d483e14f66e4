"""How the figures of the experiments look: one style for all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llada.eval.intervals import Z, wilson
from llada.experiments.shares import error_bars

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#000000",
)  # told apart by all (Okabe, Ito)
MARKERS = "osD^vP*"  # of the same lines
_LINE: Any = {"markersize": 5, "markerfacecolor": "none", "linewidth": 1.2, "capsize": 2}
_STYLE: Any = {"svg.hashsalt": "llada", "svg.fonttype": "none"}


def panels(count: int, *, width: float = 5.0, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, each of that size in inches."""
    figure = Figure(figsize=(count * width, height), layout="constrained")
    axes = [figure.add_subplot(1, count, number + 1) for number in range(count)]
    for axis in axes:
        axis.grid(color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def accuracy(
    axis: Axes, x: Sequence[float], scores: Sequence[Mapping[str, Any]], label: str, colour: str, marker: str
) -> None:
    """A line of shares of right answers, in percent, with their intervals of 95 %; as `asking.summary` has them."""
    bars = error_bars((one["right"], one["rows"]) for one in scores)
    axis.errorbar(x, *bars, marker=marker, color=colour, label=label, **_LINE)
    axis.set(ylabel="right answers, %")


def shares_from(measured: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """The limits of an axis that shows these shares of right answers with their intervals, in per cent."""
    lowest = min(wilson(one["right"], one["rows"]).low for one in measured)
    return max(-2.0, 10 * math.floor(10 * lowest - 0.05)), 101.0


def lengths(axis: Axes, x: Sequence[float], scores: Sequence[Mapping[str, Any]], colour: str, marker: str) -> None:
    """A line of mean lengths of the answers, with their intervals of 95 %."""
    tokens, reach = [one["tokens"] for one in scores], [Z * one["tokens_stderr"] for one in scores]
    axis.errorbar(x, tokens, reach, marker=marker, color=colour, **_LINE)
    axis.set(ylabel="mean tokens of an answer, with its end")


def save(figure: Figure, path: Path) -> None:
    """Write a picture or a drawing, as the ending .png or .svg says; without a date, so that equal ones are equal."""
    metadata: Any = {"Date": None} if path.suffix == ".svg" else None
    with rc_context(_STYLE):
        figure.savefig(path, dpi=130, metadata=metadata)
