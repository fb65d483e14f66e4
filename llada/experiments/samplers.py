"""The ablation of samplers (arXiv:2502.09992, tables 7 to 9): orders of revealing, with and without blocks.

Answers of fine-tuning data end at different places and are padded with the end of sequence; the experiment on the flood
tells what follows where that padding was short.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from llada.experiments.chains import SamplerSettings, scores, taught
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, panels
from llada.experiments.shares import error_bars, percent_of


def run(settings: SamplerSettings, folder: Path) -> dict[str, Any]:
    """Right answers, their length and what they cost, by sampler."""
    model, task = taught(settings, folder)
    samplers = {name: settings.sampler(name) for name in settings.samplers}
    encoded = [len(model.tokenizer.encode(text, add_special_tokens=False)) for text in task.expected]
    return {
        "expected_tokens": sum(encoded) / len(encoded) + 2,  # with the end of turn and that of the sequence
        "samplers": scores(model, task, samplers, batch_size=settings.batch_size),
    }


def table(measured: Mapping[str, Any]) -> Table:
    """A row for each sampler."""
    shown = Table("", "right (95 %)", "forward passes", "tokens of an answer")
    for name, one in measured["samplers"].items():
        shown.add_row(name, percent_of(one), f"{one['passes']:.1f}", f"{one['tokens']:.1f}")
    return shown


def finding(measured: Mapping[str, Any]) -> str:
    """The best and the worst, and the shortest answers, with all that are equal to them."""
    found = measured["samplers"]
    best, worst = (_equal(found, "right", choose) for choose in (max, min))
    shortest = _equal(found, "tokens", min)
    return (
        f"Most answers are right with {' and '.join(best)}: {percent_of(found[best[0]])}; fewest with "
        f"{' and '.join(worst)}: {percent_of(found[worst[0]])}. The shortest answers are those of "
        f"{' and '.join(shortest)}: {found[shortest[0]]['tokens']:.1f} tokens, where the plain working takes "
        f"{measured['expected_tokens']:.1f}."
    )


def _equal(found: Mapping[str, Any], key: str, choose: Callable[[Iterable[float]], float]) -> list[str]:
    """The samplers that have the chosen value."""
    value = choose(one[key] for one in found.values())
    return [name for name, one in found.items() if one[key] == value]


def draw(measured: Mapping[str, Any]) -> Figure:
    """Accuracy and length of answers, a line for each sampler. Intervals are of 95 %."""
    found = measured["samplers"]
    figure, (left, right) = panels(2, width=4.6, height=1.2 + 0.27 * len(found))
    places = range(len(found))
    shares, reach = error_bars((one["right"], one["rows"]) for one in found.values())
    left.errorbar(shares, places, xerr=reach, fmt="o", color=COLOURS[0])
    left.set(yticks=places, yticklabels=list(found), xlabel="right answers, %", xlim=(-2, 102))
    right.plot([one["tokens"] for one in found.values()], places, "o", color=COLOURS[1])
    right.axvline(measured["expected_tokens"], color="0.4", linestyle="--", linewidth=1, label="plain working")
    right.set(yticks=places, yticklabels=[], xlabel="mean tokens of an answer, with its end", xlim=(0, None))
    right.legend()
    for axis in (left, right):
        axis.set_ylim(len(found) - 0.5, -0.5)
    return figure


EXPERIMENT = Experiment(
    question="Which sampler answers best, and how long are its answers?",
    settings=SamplerSettings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
