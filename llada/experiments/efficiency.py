"""Accuracy against throughput (arXiv:2502.09992, figure 5), beside an autoregressive model with its KV cache.

Both have the same sizes and learnt the same rows for the same number of steps. Times are of this machine, of answers in
batches of `batch_size`, and generated tokens count up to and with the end of sequence.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from matplotlib.figure import Figure
from pydantic import Field, model_validator
from rich.table import Table

from llada.eval.answers import answer_autoregressively
from llada.eval.measure import timed
from llada.eval.task import Task
from llada.experiments.chains import ChainSettings, conversations, questions, scores, summary
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, accuracy, panels
from llada.experiments.shares import percent_of
from llada.experiments.student import Baseline, baseline, student
from llada.sampling.config import SamplerConfig

BASELINE = "autoregressive, KV cache"


class Settings(ChainSettings):
    gen_length: Annotated[int, Field(ge=1)]
    samplers: Annotated[dict[str, list[dict[str, Any]]], Field(min_length=1, max_length=len(COLOURS) - 1)]  # of a line

    @model_validator(mode="after")
    def _valid(self) -> Self:
        for line in self.samplers.values():
            for fields in line:
                self.sampler(fields).check_lengths()
        return self

    def sampler(self, fields: Mapping[str, Any]) -> SamplerConfig:
        return SamplerConfig(gen_length=self.gen_length, **fields)


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Right answers and tokens per second of every sampler, and of the autoregressive model."""
    pairs, models = conversations(settings.lesson), folder.parent / "models"
    masked, causal = student(pairs, settings.lesson.recipe, models), baseline(pairs, settings.lesson.recipe, models)
    task = questions(settings.lesson, settings.questions)
    lines = settings.samplers
    samplers = {(name, n): settings.sampler(fields) for name, line in lines.items() for n, fields in enumerate(line)}
    found = scores(masked, task, samplers, batch_size=settings.batch_size)
    return {
        "compute": {"masked": masked.log["flops"], "autoregressive": causal.log["flops"]},
        "batch_size": settings.batch_size,
        "lines": {BASELINE: [_of_baseline(causal, task, settings)]}
        | {name: [found[name, n] for n in range(len(line))] for name, line in lines.items()},
    }


def _of_baseline(causal: Baseline, task: Task, settings: Settings) -> dict[str, Any]:
    """The same numbers of the autoregressive model."""
    how = {"longest": settings.gen_length, "batch_size": settings.batch_size}
    reply = partial(answer_autoregressively, causal.model, causal.tokenizer, **how)
    return summary(*timed(reply, task, settings.batch_size))


def table(measured: Mapping[str, Any]) -> Table:
    """A row for each sampler."""
    shown = Table("", "right (95 %)", "tokens/s", "ratio", "forward passes", "tokens of an answer")
    first = measured["lines"][BASELINE][0]
    for name, line in measured["lines"].items():
        for one in line:
            ratio = one["tokens_per_second"] / first["tokens_per_second"]
            rate = f"{one['tokens_per_second']:.0f}"
            shown.add_row(name, percent_of(one), rate, f"{ratio:.2f}", f"{one['passes']:.1f}", f"{one['tokens']:.1f}")
    return shown


def finding(measured: Mapping[str, Any]) -> str:
    """The fastest sampler whose interval reaches the accuracy of the autoregressive model."""
    first = measured["lines"][BASELINE][0]
    low, _ = first["interval"]
    others = [(name, one) for name, line in measured["lines"].items() if name != BASELINE for one in line]
    equal = [(name, one) for name, one in others if one["interval"][1] >= low]
    told = f"The autoregressive model is right in {percent_of(first)} at {first['tokens_per_second']:.0f} tokens/s. "
    if not equal:
        name, best = max(others, key=lambda other: other[1]["right"])
        return told + f"No sampler is as accurate; the best is {name}: {percent_of(best)}."
    name, fastest = max(equal, key=lambda other: other[1]["tokens_per_second"])
    return told + (
        f"The fastest sampler whose interval reaches that one is {name}: {percent_of(fastest)} at "
        f"{fastest['tokens_per_second']:.0f} tokens/s, in {fastest['passes']:.1f} passes for {fastest['tokens']:.1f} "
        f"tokens ({measured['batch_size']} at a time)."
    )


def draw(measured: Mapping[str, Any]) -> Figure:
    """Accuracy against tokens per second, a line for each kind of sampler."""
    figure, (axis,) = panels(1, width=6.4, height=4.2)
    colours = (COLOURS[-1], *COLOURS[:-1])
    for (name, line), colour in zip(measured["lines"].items(), colours, strict=False):
        points = sorted(line, key=lambda one: one["tokens_per_second"])
        accuracy(axis, [one["tokens_per_second"] for one in points], points, name, colour)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel(f"generated tokens per second, {measured['batch_size']} at a time")
    axis.legend(fontsize=8)
    return figure


EXPERIMENT = Experiment(
    question="Is it as good as an autoregressive model at the same speed?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
