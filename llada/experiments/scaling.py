"""Held-out loss against compute (arXiv:2410.18514; arXiv:2502.09992, section 3.2), of masked and autoregressive models.

Compute is 6 N D: N parameters without embeddings, D tokens. Models of several sizes are measured while they train at a
constant learning rate, as the paper's were. Of a masked model the loss is a bound, which it may be better than.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field, model_validator
from rich.table import Table

from llada.config import ConfigError, Schema
from llada.data.corpus import documentation_corpus
from llada.data.prepare import Making, prepare_corpus
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, panels
from llada.experiments.published import LLADA_SCALING
from llada.train.config import PretrainConfig
from llada.train.journal import read_log
from llada.train.run import train

KINDS = ("masked", "autoregressive")


class Settings(Schema):
    data: str | None = None  # a folder that `llada prepare` wrote; None: the documentation that comes with Python
    vocab_size: Annotated[int, Field(ge=262)] | None = None  # of that documentation's tokenizer
    max_bytes: Annotated[int, Field(ge=1)] | None = None  # of it
    model: dict[str, Any]  # what all have
    sizes: Annotated[dict[str, dict[str, Any]], Field(min_length=2, max_length=len(COLOURS))]
    training: dict[str, Any]  # as in configs/pretrain, of both kinds
    masked: dict[str, Any]  # and of one alone
    autoregressive: dict[str, Any]

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if self.data is not None and (self.vocab_size, self.max_bytes) != (None, None):
            raise ValueError("vocab_size and max_bytes have no effect on data that is prepared; leave them out")
        for name in self.sizes:
            for kind in KINDS:
                if self.config(kind, name, Path(), Path()).evaluate_every is None:
                    raise ValueError("training.evaluate_every is missing; the loss is measured so often")
        return self

    def config(self, kind: str, size: str, data: Path, folder: Path) -> PretrainConfig:
        """The run of a model of this kind and size."""
        own = self.autoregressive | {"objective": "autoregressive"} if kind == "autoregressive" else self.masked
        files = {"data": str(data), "output": str(folder / f"{kind}-{size}")}
        values: dict[str, Any] = {**self.training, **own, **files, "model": self.model | self.sizes[size]}
        return PretrainConfig(**values)


class Fit(NamedTuple):
    """log loss = intercept - exponent log compute."""

    intercept: float
    exponent: float
    stderr: float  # of the exponent, as if the points were independent

    def loss(self, compute: float) -> float:
        return math.exp(self.intercept - self.exponent * math.log(compute))


def power_law(points: Sequence[tuple[float, float]]) -> Fit:
    """Through (compute, loss), by least squares of their logarithms. Raises ValueError for fewer than 3 points."""
    if len(points) < 3:
        raise ValueError(f"a fit with an error needs at least 3 points, not {len(points)}; measure more often")
    x, y = np.log(np.array(points)).T
    centred = x - x.mean()
    slope = float((centred * y).sum() / (centred**2).sum())
    residuals = y - y.mean() - slope * centred
    stderr = math.sqrt(float((residuals**2).sum()) / (len(x) - 2) / float((centred**2).sum()))
    return Fit(float(y.mean() - slope * x.mean()), -slope, stderr)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (compute, loss) that no other one beats with the same or less compute, by compute."""
    best: list[tuple[float, float]] = []
    for compute, loss in sorted(points):
        if not best or loss < best[-1][1]:
            best.append((compute, loss))
    return best


def compute_for(points: Sequence[tuple[float, float]], loss: float) -> float | None:
    """Between the points (compute, loss) of the frontier, on lines of their logarithms; None where none are around."""
    x, y = np.log(np.array(frontier(points))).T
    if not y[-1] <= math.log(loss) <= y[0]:
        return None
    return math.exp(np.interp(math.log(loss), y[::-1], x[::-1]))


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Compute, steps and loss of every model as it trains; fits of the frontiers; the compute for a loss of both."""
    data = _data(settings, folder)
    points = []
    for size in settings.sizes:
        for kind in KINDS:
            train(config := settings.config(kind, size, data, folder), resume=True)
            log = read_log(config.output)
            points += [
                {"kind": kind, "size": size, "flops": record["flops"], "step": record["step"]}
                | {"loss": record["bound"], "stderr": record["bound_stderr"]}
                for record in log
                if "bound" in record
            ]
    fits = {kind: power_law(frontier(_of(points, kind))) for kind in KINDS}
    worst = max(min(loss for _, loss in _of(points, kind)) for kind in KINDS)
    compute = {kind: compute_for(_of(points, kind), worst) for kind in KINDS}
    return {
        "points": points,
        "fits": {kind: fit._asdict() for kind, fit in fits.items()},
        "reached": {"loss": worst, "compute": compute},
    }


def _of(points: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[float, float]]:
    return [(one["flops"], one["loss"]) for one in points if one["kind"] == kind]


def _data(settings: Settings, folder: Path) -> Path:
    if settings.data is not None:
        if not Path(settings.data).is_dir():
            raise ConfigError(f"data={settings.data!r} is no folder; write it with `llada prepare SOURCE FOLDER`")
        return Path(settings.data)
    corpus = documentation_corpus(max_bytes=settings.max_bytes)
    making = Making() if settings.vocab_size is None else Making(vocab_size=settings.vocab_size)
    for _ in prepare_corpus(corpus, folder / "data", making, resume=True):
        pass
    return folder / "data"


def table(measured: Mapping[str, Any]) -> Table:
    """The last point of each model."""
    last = {(one["kind"], one["size"]): one for one in measured["points"]}
    shown = Table("", "size", "FLOPs", "steps", "held-out loss, nats per token")
    for (kind, size), one in last.items():
        loss = f"{'≤ ' if kind == 'masked' else ''}{one['loss']:.3f} ± {2 * one['stderr']:.3f}"
        shown.add_row(kind, size, f"{one['flops']:.2e}", str(one["step"]), loss)
    return shown


def finding(measured: Mapping[str, Any]) -> str:
    """Exponents, and how much more compute the bound takes for the best loss that both kinds reach."""
    loss, (masked, autoregressive) = measured["reached"]["loss"], measured["reached"]["compute"].values()
    fits = [f"{kind} {fit['exponent']:.3f}" for kind, fit in measured["fits"].items()]
    told = f"Loss falls with compute to the power of minus {', '.join(fits)}, as lines through all points tell. "
    if masked is None or autoregressive is None:
        return told + f"Before its first measurement one kind is below {loss:.2f} nats per token, the other's best."
    return told + (
        f"For {loss:.2f} nats per token the masked model's bound takes {masked:.1e} FLOPs, the autoregressive model "
        f"{autoregressive:.1e}: {masked / autoregressive:.0f} times as many (16 in arXiv:2410.18514, at 1e18 to 1e20)."
    )


def draw(measured: Mapping[str, Any]) -> Figure:
    """Loss against compute with the fits; beside it the paper's scores."""
    figure, (left, middle, right) = panels(3, width=4.6)
    sizes = list(dict.fromkeys(one["size"] for one in measured["points"]))
    for kind, marker in zip(KINDS, "os", strict=True):
        for number, size in enumerate(sizes):
            line = [one for one in measured["points"] if (one["kind"], one["size"]) == (kind, size)]
            left.errorbar(
                [one["flops"] for one in line],
                [one["loss"] for one in line],
                [1.96 * one["stderr"] for one in line],
                marker=marker,
                markersize=3,
                linewidth=0.8,
                color=COLOURS[number],
                markerfacecolor=COLOURS[number] if kind == "masked" else "white",
                label=f"{kind}, {size}",
            )
        compute = [one["flops"] for one in measured["points"] if one["kind"] == kind]
        fit = Fit(**measured["fits"][kind])
        x = np.geomspace(min(compute), max(compute), 20)
        left.plot(x, [fit.loss(c) for c in x], color="0.3", linestyle="--" if kind == "masked" else ":", linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="FLOPs (6 N D)", ylabel="held-out loss, nats per token")
    left.yaxis.set_major_formatter("{x:.1f}")
    left.yaxis.set_minor_formatter("{x:.1f}")
    left.set_title("measured here; dashed, dotted: fits", fontsize=10)
    _published(middle, 1, "MMLU, %")
    _published(right, 2, "GSM8K, %")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8)
    figure.legend(*middle.get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=8)  # of right, too
    return figure


def _published(axis: Axes, column: int, label: str) -> None:
    """The paper's scores."""
    for number, (name, rows) in enumerate(LLADA_SCALING.items()):
        shown = [(row[0], row[column]) for row in rows if row[column] is not None]
        filled = COLOURS[0] if name.startswith("LLaDA") else "white"
        axis.plot(*zip(*shown, strict=True), "o^"[number % 2], color=COLOURS[number // 2], markersize=4, label=name,
                  markerfacecolor=filled)  # fmt: skip
    axis.set(xscale="log", xlabel="FLOPs (6 N D)", ylabel=label)
    axis.set_title("arXiv:2502.09992, tables 18 and 19", fontsize=10)


EXPERIMENT = Experiment(
    question="How does the loss fall with compute?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
