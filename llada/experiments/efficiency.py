"""Accuracy against throughput (arXiv:2502.09992, figure 5), beside an autoregressive model with its KV cache.

Both have the same sizes and learnt the same rows for the same number of steps. Times are of this machine, of answers in
batches of `batch_size`; each is measured several times, in turn with all others, as machines have moods.
"""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from pydantic import Field, model_validator
from rich.table import Table
from tqdm import tqdm

from llada.config import AtLeast1
from llada.eval.answers import answer, answer_autoregressively
from llada.eval.intervals import loss_limit
from llada.eval.measure import Timed, timed
from llada.experiments.asking import Asking, sampler_of, summary
from llada.experiments.chains import conversations
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, MARKERS, panels
from llada.experiments.shares import error_bars, percent_of, tokens_of
from llada.experiments.student import baseline
from llada.sampling.config import SamplerConfig

BASELINE = "autoregressive, KV cache"


class Settings(Asking):
    gen_length: AtLeast1
    samplers: Annotated[dict[str, list[dict[str, Any]]], Field(min_length=1, max_length=len(COLOURS) - 1)]  # of a line
    repeats: AtLeast1 = 3  # of the measurement of each time
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05  # answers that may be lost against the baseline, as a share

    @model_validator(mode="after")
    def _valid(self) -> Self:
        for line in self.samplers.values():
            for fields in line:
                self.sampler(fields)
        return self

    def sampler(self, fields: Mapping[str, Any]) -> SamplerConfig:
        return sampler_of(fields, {"gen_length": self.gen_length})


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Right answers and answers per second of every sampler, and of the autoregressive model."""
    lesson, task, size = settings.taught, settings.asked(), settings.batch_size
    masked, causal = settings.student(folder), baseline(conversations(lesson), lesson.recipe, folder.parent / "models")
    replies = {
        (BASELINE, ""): partial(
            answer_autoregressively, causal.model, causal.tokenizer, longest=settings.gen_length, batch_size=size
        )
    } | {
        (name, varied): partial(
            answer, masked.model, masked.tokenizer, sampler=settings.sampler(fields), batch_size=size
        )
        for name, line in settings.samplers.items()
        for varied, fields in zip(_varied(line), line, strict=True)
    }
    rounds = [
        {key: timed(reply, task, size) for key, reply in tqdm(replies.items(), unit="sampler", disable=None)}
        for _ in range(settings.repeats)
    ]
    lines: dict[str, list[dict[str, Any]]] = {}
    for name, varied in replies:
        found = [one[name, varied] for one in rounds]
        lines.setdefault(name, []).append({"varied": varied} | _score(found, rounds[0][BASELINE, ""]))
    return {
        "compute": {"masked": masked.log["flops"], "autoregressive": causal.log["flops"]},
        "batch_size": size,
        "tolerance": settings.tolerance,
        "lines": lines,
    }


def _varied(line: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each sampler of a line, the values of the fields in which they differ."""
    names = dict.fromkeys(name for fields in line for name in fields)
    differ = [name for name in names if len({repr(fields.get(name)) for fields in line}) > 1]
    return [", ".join(str(fields[name]) for name in differ if name in fields) for fields in line]


def _score(found: Sequence[Timed], first: Timed) -> dict[str, Any]:
    """Of one sampler, with the answers that it lost and won against the baseline's, and its answers per second."""
    pairs = list(zip(first.right, found[0].right, strict=True))
    changes = {"lost": pairs.count((True, False)), "won": pairs.count((False, True))}
    return summary(found[0]) | changes | {"rates": sorted(len(pairs) / one.seconds for one in found)}


def table(measured: Mapping[str, Any]) -> Table:
    """A row for each sampler."""
    columns = ("answers/s", "ratio", "lost at most", "forward passes", "positions", "tokens of an answer")
    shown = Table("", "set", "right (95 %)", *columns)
    first = measured["lines"][BASELINE][0]
    for name, line in measured["lines"].items():
        for one in line:
            means = f"{one['passes']:.1f}", f"{one['positions']:.0f}", tokens_of(one)
            lost = "" if name == BASELINE else f"{_limit(one):.1%}"
            rates = _span(one), _ratio(one, first)
            shown.add_row(name, one["varied"], percent_of(one), *rates, lost, *means)
    return shown


def _rate(one: Mapping[str, Any]) -> float:
    return statistics.median(one["rates"])


def _ratio(one: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Answers per second as a multiple of the baseline's: of medians, and what the extremes of both allow."""
    low, high = min(one["rates"]) / max(first["rates"]), max(one["rates"]) / min(first["rates"])
    return f"{_rate(one) / _rate(first):.2f} ({low:.2f}–{high:.2f})"


def _span(one: Mapping[str, Any]) -> str:
    """The median of the answers per second, with the lowest and the highest."""
    return f"{_rate(one):.1f} ({min(one['rates']):.1f}–{max(one['rates']):.1f})"


def _limit(one: Mapping[str, Any]) -> float:
    """The most that is lost against the baseline, by the upper end of the interval of 95 %."""
    return loss_limit(one["lost"], one["won"], one["rows"])


def finding(measured: Mapping[str, Any]) -> str:
    """The fastest sampler that is shown to lose hardly any answers, and why it is."""
    first, tolerance = measured["lines"][BASELINE][0], measured["tolerance"]
    ratio = measured["compute"]["masked"] / measured["compute"]["autoregressive"]
    others = [(name, one) for name, line in measured["lines"].items() if name != BASELINE for one in line]
    told = f"The autoregressive model is right in {percent_of(first)}, with {_span(first)} answers a second. "
    asked = f"to lose at most {tolerance:.0%} of the answers against it (95 %, on the questions it was chosen by)"
    equal = [(name, one) for name, one in others if _limit(one) <= tolerance]
    if not equal:
        name, best = min(others, key=lambda other: _limit(other[1]))
        told += f"No sampler is shown {asked}; nearest is {name} {best['varied']}: {percent_of(best)}"
    else:
        name, best = max(equal, key=lambda other: _rate(other[1]))
        told += f"The fastest of {len(others)} samplers that is shown {asked} is {name} {best['varied']}: "
        told += percent_of(best)
    return (
        f"{told}, with {_span(best)} answers a second, {_ratio(best, first)} times as many "
        f"({measured['batch_size']} at a time; lowest and highest of {len(best['rates'])} measurements). An answer of "
        f"it has {best['tokens']:.1f} tokens, takes {best['passes']:.1f} calls of the network and computes "
        f"{best['positions']:.0f} positions; one of the autoregressive model {first['tokens']:.1f}, "
        f"{first['passes']:.1f} and {first['positions']:.0f}: fewer calls win where a call costs more than its "
        f"arithmetic, as in so small a model. Its training took {ratio:.2f} times the compute."
    )


def draw(measured: Mapping[str, Any]) -> Figure:
    """Accuracy against answers per second, a line for each kind of sampler. Intervals are of 95 %."""
    figure, (axis,) = panels(1, width=7.0, height=4.6)
    colours = (COLOURS[-1], *COLOURS[:-1])
    for number, ((name, line), marker) in enumerate(zip(measured["lines"].items(), MARKERS, strict=False)):
        points = sorted(line, key=_rate)
        rates = [_rate(one) for one in points]
        shares, reach = error_bars((one["right"], one["rows"]) for one in points)
        across = [
            [_rate(one) - min(one["rates"]) for one in points],
            [max(one["rates"]) - _rate(one) for one in points],
        ]
        how = {"color": colours[number], "marker": marker, "markersize": 5, "linewidth": 1.2, "capsize": 2}
        axis.errorbar(rates, shares, reach, across, label=name, **how)
        place, up = _LABELS[number % len(_LABELS)]
        for one, x, share, below, above in zip(points, rates, shares, *reach, strict=True):
            axis.annotate(
                one["varied"],
                (x, share + above if up else share - below),
                (0, 3 if up else -3),
                textcoords="offset points",
                ha=place,
                va="bottom" if up else "top",
                fontsize=8,
                color=colours[number],
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel(f"answers per second, {measured['batch_size']} at a time; median, lowest and highest")
    axis.set(ylabel="right answers, %")
    axis.set_title("numbers: steps, or the threshold; bars: 95 % of the shares, extremes of the rates", fontsize=9)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


_LABELS = (("center", False), ("right", False), ("center", True), ("left", False))  # of a line's points: where, above

EXPERIMENT = Experiment(
    question="Is it as good as an autoregressive model at the same speed?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
