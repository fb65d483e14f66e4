"""Held-out loss against compute (arXiv:2410.18514; arXiv:2502.09992, section 3.2), of masked and autoregressive models.

Compute is 6 N D: N parameters without embeddings, D tokens. Models of several sizes are measured while they train at a
constant learning rate, as the paper's were: at each of some rates, of which every kind and size has its best one. Of a
masked model the loss is a bound, which it may be better than.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from pydantic import Field, model_validator
from rich.table import Table

from llada.config import AtLeast1, ConfigError, Schema
from llada.data.corpus import documentation_corpus
from llada.data.prepare import Making, prepare_corpus
from llada.eval.intervals import Z
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, panels
from llada.experiments.published import LLADA_SCALING
from llada.train.config import PretrainConfig
from llada.train.journal import read_log
from llada.train.run import train

KINDS = ("masked", "autoregressive")
Point = tuple[float, float]  # compute, loss


class Settings(Schema):
    data: str | None = None  # a folder that `llada prepare` wrote; None: the documentation that comes with Python
    vocab_size: Annotated[int, Field(ge=262)] | None = None  # of that documentation's tokenizer
    max_bytes: AtLeast1 | None = None  # of it
    model: dict[str, Any]  # what all have
    sizes: Annotated[dict[str, dict[str, Any]], Field(min_length=2, max_length=len(COLOURS))]
    training: dict[str, Any]  # as in configs/pretrain, of both kinds
    masked: dict[str, Any]  # and of one alone
    autoregressive: dict[str, Any]
    learning_rates: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]  # that both kinds try
    fit_from: Annotated[int, Field(ge=0)] = 0  # the step before which a run is not at its power law yet

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if self.data is not None and (self.vocab_size, self.max_bytes) != (None, None):
            raise ValueError("vocab_size and max_bytes have no effect on data that is prepared; leave them out")
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"learning_rates={self.learning_rates} are in part the same; name each once")
        for values in (self.training, self.masked, self.autoregressive):
            if not isinstance(optim := values.get("optim", {}), dict):
                raise ValueError(f"optim={optim!r} must have keys, as in configs/pretrain")
            if "learning_rate" in optim:
                raise ValueError("learning_rates says what is tried; leave learning_rate out of optim")
        for name in self.sizes:
            for kind in KINDS:
                config = self.config(kind, name, self.learning_rates[0], Path(), Path())
                if config.evaluate_every is None:
                    raise ValueError("training.evaluate_every is missing; the loss is measured so often")
                if self.fit_from > config.steps:
                    raise ValueError(f"fit_from={self.fit_from} is after the last of {config.steps} steps")
        return self

    def config(self, kind: str, size: str, rate: float, data: Path, folder: Path) -> PretrainConfig:
        """The run of a model of this kind and size at this learning rate."""
        own: dict[str, Any] = self.masked
        if kind == "autoregressive":
            own = {**self.autoregressive, "objective": "autoregressive"}
        values: dict[str, Any] = {**self.training, **own, "model": self.model | self.sizes[size]}
        values["optim"] = {**self.training.get("optim", {}), **own.get("optim", {}), "learning_rate": rate}
        return PretrainConfig(**values, data=str(data), output=str(folder / f"{kind}-{size}-{rate:g}"))


class Fit(NamedTuple):
    """log loss = intercept - exponent log compute."""

    intercept: float
    exponent: float
    stderr: float  # of the exponent, as if the points were independent

    def loss(self, compute: float) -> float:
        return math.exp(self.intercept - self.exponent * math.log(compute))


def power_law(points: Sequence[Point]) -> Fit:
    """Through (compute, loss), by least squares of their logarithms. Raises ValueError for fewer than 3 points."""
    if len(points) < 3:
        raise ValueError(f"a fit with an error needs at least 3 points, not {len(points)}; measure more often")
    x, y = np.log(np.array(points)).T
    centred = x - x.mean()
    slope = float((centred * y).sum() / (centred**2).sum())
    residuals = y - y.mean() - slope * centred
    stderr = math.sqrt(float((residuals**2).sum()) / (len(x) - 2) / float((centred**2).sum()))
    return Fit(float(y.mean() - slope * x.mean()), -slope, stderr)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points (compute, loss) that no other one beats with the same or less compute, by compute."""
    best: list[Point] = []
    for compute, loss in sorted(points):
        if not best or loss < best[-1][1]:
            best.append((compute, loss))
    return best


def compute_for(runs: Sequence[Sequence[Point]], loss: float) -> float | None:
    """The least with which one of the runs has this loss, on lines of logarithms between its points; None: none has."""
    found = []
    for points in runs:
        compute, losses = np.array(frontier(points)).T
        if losses[-1] <= loss <= losses[0]:
            found.append(float(np.exp(np.interp(np.log(loss), np.log(losses[::-1]), np.log(compute[::-1])))))
    return min(found, default=None)


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """Compute, steps and loss of every model as it trains; which learning rates are best; and fits."""
    data = _data(settings, folder)
    points = []
    for size, kind, rate in product(settings.sizes, KINDS, settings.learning_rates):
        train(config := settings.config(kind, size, rate, data, folder), resume=True)
        points += [
            {"kind": kind, "size": size, "rate": rate, "flops": record["flops"], "step": record["step"]}
            | {"loss": record["bound"], "stderr": record["bound_stderr"]}
            for record in read_log(config.output)
            if "bound" in record
        ]
    best = {kind: {size: _best_rate(points, kind, size) for size in settings.sizes} for kind in KINDS}
    measured = {"points": points, "best_rates": best, "fit_from": settings.fit_from}
    return measured | {"fits": {kind: power_law(_curve(_fitted(measured, kind)))._asdict() for kind in KINDS}}


def _best_rate(points: Sequence[Mapping[str, Any]], kind: str, size: str) -> float:
    """With which a model has the lowest of all its losses."""
    return min((one["loss"], one["rate"]) for one in points if (one["kind"], one["size"]) == (kind, size))[1]


def _fitted(measured: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """Of the points at the best rates, after the first steps, those that no other one beats with no more compute."""
    best = measured["best_rates"][kind]
    late = [
        one
        for one in measured["points"]
        if one["kind"] == kind and one["rate"] == best[one["size"]] and one["step"] >= measured["fit_from"]
    ]
    unbeaten = set(frontier(_curve(late)))
    return sorted((one for one in late if (one["flops"], one["loss"]) in unbeaten), key=lambda one: one["flops"])


def _curve(points: Sequence[Mapping[str, Any]], errors: float = 0.0) -> list[Point]:
    """(compute, loss), the losses higher by so many standard errors."""
    return [(one["flops"], one["loss"] + errors * one["stderr"]) for one in points]


def reached(points: Sequence[Mapping[str, Any]], size: str) -> dict[str, Any]:
    """The loss that a masked model of this size is shown to reach, and the least compute of both kinds for it.

    That is its lowest bound and two standard errors; for the compute of masked models bounds are taken two standard
    errors lower and higher. Every size and every learning rate counts, each run by itself.
    """
    runs: dict[str, dict[tuple[str, float], list[Mapping[str, Any]]]] = {kind: {} for kind in KINDS}
    for one in points:
        runs[one["kind"]].setdefault((one["size"], one["rate"]), []).append(one)
    masked, causal = (list(runs[kind].values()) for kind in KINDS)
    loss = min(loss for run in masked if run[0]["size"] == size for _, loss in _curve(run, 2))
    return {
        "size": size,
        "loss": loss,
        "masked": [compute_for([_curve(run, errors) for run in masked], loss) for errors in (-2, 2)],
        "autoregressive": compute_for([_curve(run) for run in causal], loss),
    }


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
    last = {(one["kind"], one["size"], one["rate"]): one for one in measured["points"]}
    shown = Table("", "size", "learning rate", "FLOPs", "steps", "held-out loss, nats per token")
    for (kind, size, rate), one in last.items():
        loss = f"{'≤ ' if kind == 'masked' else ''}{one['loss']:.3f} ± {2 * one['stderr']:.3f}"
        best = " (best)" if rate == measured["best_rates"][kind][size] else ""
        shown.add_row(kind, size, f"{rate:g}{best}", f"{one['flops']:.2e}", str(one["step"]), loss)
    return shown


def finding(measured: Mapping[str, Any]) -> str:
    """Exponents, and how much more compute the bound takes for losses that both kinds reach."""
    fits = [
        f"{kind} {fit['exponent']:.3f} ± {2 * fit['stderr']:.3f} "
        f"({', '.join(dict.fromkeys(one['size'] for one in _fitted(measured, kind)))})"
        for kind, fit in measured["fits"].items()
    ]
    found = [reached(measured["points"], size) for size in dict.fromkeys(one["size"] for one in measured["points"])]
    told = [
        f"{one['loss']:.2f} nats {_times(one['masked'], one['autoregressive'])}"
        for one in found
        if one["autoregressive"] and any(one["masked"])
    ]
    rates = [
        f"{kind} {', '.join(f'{rate:g} for {size}' for size, rate in best.items())}"
        for kind, best in measured["best_rates"].items()
    ]
    return (
        f"From step {measured['fit_from']} on the frontier, which these sizes make, falls with compute to the power of "
        f"minus {', '.join(fits)}, as if its points were independent; of a bound and of a likelihood. "
        f"Of each kind and size the best learning rate of those tried counts: {'; '.join(rates)}. For the losses that "
        "masked models are shown to reach they take, as multiples of the autoregressive models' compute: "
        f"{', '.join(told) or 'none that both kinds have'} (of all sizes and rates the run that needs least). Small "
        "autoregressive models have such losses in their first steps, so that the multiple is one of these losses; at "
        "1e18 to 1e20 FLOPs arXiv:2410.18514 found 16."
    )


def _times(masked: Sequence[float | None], autoregressive: float) -> str:
    low, high = (None if compute is None else compute / autoregressive for compute in masked)
    if low is None or high is None:
        return f"{'more' if high is None else 'less'} than {(low or high or 0):.0f}"
    return f"{low:.0f} to {high:.0f}"


def draw(measured: Mapping[str, Any]) -> Figure:
    """Loss against compute with the fits; beside it the paper's scores."""
    figure, (left, middle, right) = panels(3, width=4.6, height=4.4)
    sizes = list(dict.fromkeys(one["size"] for one in measured["points"]))
    rates = dict.fromkeys(one["rate"] for one in measured["points"])
    for (kind, marker), (number, size), rate in product(zip(KINDS, "os", strict=True), enumerate(sizes), rates):
        line = [one for one in measured["points"] if (one["kind"], one["size"], one["rate"]) == (kind, size, rate)]
        compute, loss, colour = [one["flops"] for one in line], [one["loss"] for one in line], COLOURS[number]
        if rate != measured["best_rates"][kind][size]:
            left.plot(compute, loss, color=colour, linewidth=0.6, alpha=0.4)
            continue
        left.errorbar(
            compute,
            loss,
            [Z * one["stderr"] for one in line],
            marker=marker,
            markersize=3,
            linewidth=0.8,
            color=colour,
            markerfacecolor=colour if kind == "masked" else "white",
            label=f"{kind}, {size}",
        )
    for kind, style in zip(KINDS, ("--", ":"), strict=True):
        fit = Fit(**measured["fits"][kind])
        compute = [one["flops"] for one in _fitted(measured, kind)]
        x = np.geomspace(min(compute), max(compute), 20)
        label = f"{kind}, fit: exponent {fit.exponent:.3f} ± {2 * fit.stderr:.3f}"
        left.plot(x, [fit.loss(c) for c in x], color="0.2", linestyle=style, linewidth=1.4, label=label, zorder=3)
    left.set(xscale="log", yscale="log", xlabel="FLOPs (6 N D)", ylabel="bound (masked) or loss, nats per token")
    left.yaxis.set_major_locator(MaxNLocator(7))
    left.yaxis.set_minor_locator(NullLocator())
    left.yaxis.set_major_formatter("{x:g}")
    left.set_title("measured here (bars: 95 %); pale: other learning rates", fontsize=9)
    _published(middle, 1, "MMLU, %")
    _published(right, 2, "GSM8K, %")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8)
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
    axis.set_title("published: arXiv:2502.09992, tables 18 and 19", fontsize=9)


EXPERIMENT = Experiment(
    question="How does the loss fall with compute?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
