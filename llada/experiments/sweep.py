"""Samplers while one thing is varied: what the experiments of steps, length and guidance have in common."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from matplotlib.figure import Figure
from pydantic import Field, model_validator
from rich.table import Table

from llada.eval.task import Task
from llada.experiments.asking import Asking, scores
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, MARKERS, accuracy, lengths, panels, shares_from
from llada.experiments.shares import percent_of, tokens_of
from llada.experiments.student import Student
from llada.sampling.config import SamplerConfig

Line = list[tuple[float, SamplerConfig]]  # what was varied, and the sampler at it
Samplers = Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=len(COLOURS) - 1)]


class SweepSettings(Asking):
    samplers: Samplers  # the fields of each that are not the default

    @model_validator(mode="after")
    def _valid(self) -> Self:
        self.lines()
        return self

    def lines(self) -> dict[str, Line]:
        """By the name that the figure gives each."""
        raise NotImplementedError


class Varied(NamedTuple):
    """What the axis shows."""

    label: str
    by_passes: bool = False  # the forward passes that were counted, on a logarithmic axis, not what was set

    def at(self, point: Mapping[str, Any]) -> float:
        """Where a point of a line stands on the axis."""
        return point["passes"] if self.by_passes else point["at"]


def sweep(question: str, settings: type[SweepSettings], varied: Varied) -> Experiment:
    """The experiment that measures and draws these lines."""
    return Experiment(
        question=question,
        settings=settings,
        run=run,
        table=partial(table, varied),
        finding=partial(finding, varied),
        draw=partial(draw, varied),
    )


def run(settings: SweepSettings, folder: Path) -> dict[str, Any]:
    """Scores of each line, in its order, of the model that is asked."""
    return measure(settings.student(folder), settings.asked(), settings)


def measure(model: Student, task: Task, settings: SweepSettings) -> dict[str, Any]:
    """The same of this model on these questions."""
    lines = settings.lines()
    samplers = {(name, at): sampler for name, line in lines.items() for at, sampler in line}
    found = scores(model, task, samplers, batch_size=settings.batch_size)
    return {"lines": {name: [{"at": at} | found[name, at] for at, _ in line] for name, line in lines.items()}}


def table(varied: Varied, measured: Mapping[str, Any]) -> Table:
    """A row for each point."""
    shown = Table(
        "", "set" if varied.by_passes else varied.label, "right (95 %)", "forward passes", "tokens of an answer"
    )
    for name, line in measured["lines"].items():
        for one in line:
            shown.add_row(name, f"{one['at']:g}", percent_of(one), f"{one['passes']:.1f}", tokens_of(one))
    return shown


def finding(varied: Varied, measured: Mapping[str, Any]) -> str:
    """Where each line has the fewest right answers and where the most, and how long its answers are."""
    told = [f"{name}: {_ends(varied, line)}" for name, line in measured["lines"].items()]
    return f"Fewest and most right answers of each line. {'; '.join(told)}."


def _ends(varied: Varied, line: Sequence[Mapping[str, Any]]) -> str:
    fewest, most = (end(line, key=lambda one: one["right"]) for end in (min, max))
    lengths_found = sorted({f"{end(one['tokens'] for one in line):.1f}" for end in (min, max)}, key=float)
    answers = f"in answers of {' to '.join(lengths_found)} tokens"
    if fewest["right"] == most["right"]:
        return f"{percent_of(fewest)} everywhere, {answers}"
    low, high = (
        f"{percent_of(one)} " + (f"in {varied.at(one):.3g} passes" if varied.by_passes else f"at {varied.at(one):g}")
        for one in (fewest, most)
    )
    return f"{low}, {high}, {answers}"


def draw(varied: Varied, measured: Mapping[str, Any]) -> Figure:
    """Accuracy, and the length of answers, a line for each sampler. Intervals are of 95 %."""
    figure, (left, right) = panels(2, width=5.4, height=4.2)
    for number, (name, line) in enumerate(measured["lines"].items()):
        points = sorted(line, key=varied.at)
        x = [varied.at(one) for one in points]
        accuracy(left, x, points, name, COLOURS[number], MARKERS[number])
        lengths(right, x, points, COLOURS[number], MARKERS[number])
    for axis in (left, right):
        axis.set_xlabel(varied.label)
        if varied.by_passes:
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
        else:
            axis.set_xticks(sorted({one["at"] for line in measured["lines"].values() for one in line}))
    left.set_ylim(shares_from(one for line in measured["lines"].values() for one in line))
    left.set_title("bars: 95 %", fontsize=9)
    right.set_ylim(0, 1.08 * right.get_ylim()[1])
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8)
    return figure
