"""The ablation of samplers (arXiv:2502.09992, tables 7 to 9): orders of revealing, with and without blocks.

Answers of fine-tuning data end at different places and are padded with the end of sequence; the experiment on the flood
tells what follows where that padding was short.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from matplotlib.figure import Figure
from pydantic import Field
from rich.table import Table

from llada.config import AtLeast1
from llada.eval.intervals import Z
from llada.experiments.asking import AskingSamplers, sampler_of, scores
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, MARKERS, panels, shares_from
from llada.experiments.shares import error_bars, percent_of, tokens_of
from llada.sampling.config import SamplerConfig


class Settings(AskingSamplers):
    steps: Annotated[list[AtLeast1], Field(min_length=1, max_length=len(COLOURS))]  # of all samplers

    def every(self) -> dict[tuple[str, int], SamplerConfig]:
        """By name and steps."""
        return {
            (name, steps): sampler_of(fields, {"gen_length": self.gen_length, "steps": steps})
            for (name, fields), steps in product(self.samplers.items(), self.steps)
        }


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Right answers, their length and what they cost, by sampler and steps."""
    model, task = settings.student(folder), settings.asked()
    encoded = [len(model.tokenizer.encode(text, add_special_tokens=False)) for text in task.expected]
    found = scores(model, task, settings.every(), batch_size=settings.batch_size)
    return {
        "gen_length": settings.gen_length,
        "expected_tokens": sum(encoded) / len(encoded) + 2,  # with the end of turn and that of the sequence
        "steps": {str(steps): {name: found[name, steps] for name in settings.samplers} for steps in settings.steps},
    }


def table(measured: Mapping[str, Any]) -> Table:
    """A row for each sampler and number of steps."""
    shown = Table("", "steps", "right (95 %)", "forward passes", "tokens of an answer")
    for steps, found in measured["steps"].items():
        for name, one in found.items():
            shown.add_row(name, steps, percent_of(one), f"{one['passes']:.1f}", tokens_of(one))
    return shown


def finding(measured: Mapping[str, Any]) -> str:
    """The best and the worst for each number of steps, and the shortest answers, with all that are equal to them."""
    told = []
    for steps, found in measured["steps"].items():
        best, worst, shortest = (_equal(found, *of) for of in (("right", max), ("right", min), ("tokens", min)))
        told.append(
            f"In {steps} steps most answers are right with {_listed(best)}: {percent_of(found[best[0]])}; fewest with "
            f"{_listed(worst)}: {percent_of(found[worst[0]])}; shortest are those of {_listed(shortest)}: "
            f"{tokens_of(found[shortest[0]])} tokens."
        )
    return f"{' '.join(told)} The plain working takes {measured['expected_tokens']:.1f} tokens."


def _equal(found: Mapping[str, Any], key: str, choose: Callable[[Iterable[float]], float]) -> list[str]:
    """The samplers that have the chosen value."""
    value = choose(one[key] for one in found.values())
    return [name for name, one in found.items() if one[key] == value]


def _listed(names: Sequence[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return " and ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)


def draw(measured: Mapping[str, Any]) -> Figure:
    """Accuracy and length of answers, a row for each sampler. Intervals are of 95 %."""
    names = list(next(iter(measured["steps"].values())))
    figure, (left, right) = panels(2, width=4.6, height=1.4 + 0.3 * len(names))
    for number, (steps, found) in enumerate(measured["steps"].items()):
        how = {"fmt": MARKERS[number], "color": COLOURS[number], "markersize": 5}
        places = [place + 0.3 * ((number + 0.5) / len(measured["steps"]) - 0.5) for place in range(len(names))]
        shares, reach = error_bars((one["right"], one["rows"]) for one in found.values())
        left.errorbar(shares, places, xerr=reach, label=f"{steps} steps", **how)
        tokens, errors = zip(*((one["tokens"], Z * one["tokens_stderr"]) for one in found.values()), strict=True)
        right.errorbar(tokens, places, xerr=errors, **how)
    left.set(yticks=range(len(names)), yticklabels=names, xlabel="right answers, %")
    left.set_xlim(shares_from(one for found in measured["steps"].values() for one in found.values()))
    left.set_title("bars: 95 %", fontsize=9)
    right.axvline(
        measured["expected_tokens"], color="0.4", linestyle="--", linewidth=1, label="plain working", zorder=0
    )
    right.set(yticks=range(len(names)), yticklabels=[], xlabel="mean tokens of an answer, with its end", xlim=(0, None))
    for axis in (left, right):
        axis.set_ylim(len(names) - 0.5, -0.5)
    (of_left, names_left), (of_right, names_right) = (a.get_legend_handles_labels() for a in (left, right))
    figure.legend(of_left + of_right, names_left + names_right, loc="outside lower center", ncols=4, fontsize=8)
    return figure


EXPERIMENT = Experiment(
    question="Which sampler answers best, and how long are its answers?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
