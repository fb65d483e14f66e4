"""Masked diffusion without time (arXiv:2409.02908): what follows for the loss, the sampler and the weight of the loss.

A model that does not see the time is an any-order model: exactly so many masks give the bound of a probability t with
less noise, tokens can be revealed one by one instead of in steps of time, and the weight 1/t only balances numbers of
masks. Measured where samples can be judged exactly (`llada.experiments.small_grids`).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field, model_validator
from rich.table import Table

from llada.config import Schema
from llada.eval.intervals import Z, wilson
from llada.experiments.experiment import Experiment
from llada.experiments.figures import COLOURS, panels
from llada.experiments.loss_noise import noise_of
from llada.experiments.small_grids import BOX, GridRows, all_grids, bound_of, sampled, trained
from llada.model.checkpoint import load_pretrained
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig

WEIGHTS = {"elbo": "weight 1/t", "uniform": "no weight"}  # objective → how it is called
Whole = Annotated[int, Field(ge=1)]
Many = Annotated[int, Field(ge=30)]


class Settings(Schema):
    """The model, its training, and how much is measured."""

    model: dict[str, Any]  # sizes of a LLaDAConfig
    optimizer: Literal["adamw", "muon"]
    batch_size: Annotated[int, Field(ge=1, le=288)]
    steps: Whole
    warmup: Annotated[int, Field(ge=0)]
    rates: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(min_length=1)  # tried with each weight
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=2)  # of first weights, rows and masks: runs at a rate
    noise_steps: Whole  # of training, until the noise of the loss is measured
    noise_draws: Many  # of masks, for the variance of the loss
    gradient_draws: Many  # the same for the gradient
    samples: Many  # of each sampler
    few_steps: list[Annotated[int, Field(ge=1, le=BOX.cells)]] = Field(min_length=1)  # that share the cells equally
    time_steps: list[Whole] = Field(min_length=1)  # of discretised time
    evaluate_draws: Whole  # masks of each grid, for the bound

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name in ("steps", "noise_steps"):
            if 2 * self.warmup > (steps := getattr(self, name)):
                raise ValueError(f"warmup={self.warmup} exceeds the half of {name}={steps} before the rate falls")
        for name in ("rates", "seeds", "few_steps", "time_steps"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={values} holds a value twice")
        return self

    def train(self, objective: str, rate: float, seed: int, steps: int) -> LLaDAForMaskedLM:
        """One run."""
        return trained(
            self.model,
            objective=objective,
            optimizer=self.optimizer,
            rate=rate,
            warmup=self.warmup,
            steps=steps,
            batch_size=self.batch_size,
            seed=seed,
        )


def run(settings: Settings, folder: Path) -> dict[str, Any]:
    """All three parts; noise and samplers are those of the model of the bound, at its best rate and first seed."""
    runs = {objective: _runs(settings, objective, folder) for objective in WEIGHTS}
    rate, seed = best(runs["elbo"])["rate"], settings.seeds[0]
    device = "cuda" if torch.cuda.is_available() else None
    model, _ = load_pretrained(_place(folder, "elbo", rate, seed), device=device)
    rows = GridRows()
    x0 = torch.from_numpy(np.random.default_rng(seed).permutation(rows.tokens)[: settings.batch_size])
    noise = noise_of(
        settings.train("elbo", rate, seed, settings.noise_steps).cpu(),
        x0,
        torch.from_numpy(rows.maskable).expand_as(x0),
        draws=settings.noise_draws,
        gradient_draws=settings.gradient_draws,
        seed=seed,
    )
    return {
        "entropy": math.log(len(all_grids())),
        "steps": settings.steps,
        "noise_steps": settings.noise_steps,
        "batch_size": settings.batch_size,
        "noise": noise,
        "by_token": [
            {"steps": steps}
            | sampled(model, SamplerConfig(order="random", temperature=1.0, steps=steps), settings.samples, seed)
            for steps in settings.few_steps
        ],
        "by_time": [
            {"steps": steps, "needed": needed_evaluations(steps)}
            | sampled(model, SamplerConfig(reveal="ancestral", temperature=1.0, steps=steps), settings.samples, seed)
            for steps in settings.time_steps
        ],
        "runs": runs,
    }


def _runs(settings: Settings, objective: str, folder: Path) -> list[dict[str, Any]]:
    """Bound and samples of a model for each learning rate and seed; the models stay in the folder."""
    found = []
    for rate in settings.rates:
        for seed in settings.seeds:
            model = settings.train(objective, rate, seed, settings.steps)
            model.save_pretrained(_place(folder, objective, rate, seed))
            bound = bound_of(model, settings.evaluate_draws)
            samples = sampled(model, SamplerConfig.named("first_hitting"), settings.samples, seed)
            found.append(
                {"rate": rate, "seed": seed, "bound": bound.value, "bound_stderr": bound.stderr} | samples,
            )
    return found


def _place(folder: Path, objective: str, rate: float, seed: int) -> Path:
    return folder / f"{objective}-{rate:g}-{seed}"


def needed_evaluations(steps: int, cells: int = BOX.cells) -> float:
    """Of so many steps of discretised time, those in which any of the cells is revealed, on average."""
    return steps * (1 - (1 - 1 / steps) ** cells)


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds of one rate, and their standard errors."""
    found: dict[str, Any] = {"rate": runs[0]["rate"], "runs": len(runs)}
    shares = [run["valid"] / run["samples"] for run in runs]
    for name, values in (("bound", [run["bound"] for run in runs]), ("valid", shares)):
        found |= {name: float(np.mean(values)), f"{name}_stderr": float(np.std(values, ddof=1) / math.sqrt(len(runs)))}
    return found


def by_rate(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The summary of each rate, ascending."""
    return [summary([run for run in runs if run["rate"] == rate]) for rate in sorted({run["rate"] for run in runs})]


def best(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the rates, the one with the lowest bound."""
    return min(by_rate(runs), key=lambda found: found["bound"])


def relative(noise: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Standard deviations as shares of the first one, with their standard errors; `name` is that of the variance."""
    first = noise[0][name]
    shares = [math.sqrt(one[name] / first) for one in noise]
    return [
        (share, share * one[f"{name}_stderr"] / (2 * one[name])) for share, one in zip(shares, noise, strict=True)
    ]  # d sqrt(v) = dv / (2 sqrt(v))


def table(measured: Mapping[str, Any]) -> Table:
    """The three parts under each other."""
    shown = Table("", "", "", "", "")
    signal = float(np.mean([one["signal"] for one in measured["noise"]]))
    shown.add_row("masks", "loss, nats per token", "its deviation", "gradient: covariance / squared norm", style="bold")
    for one in measured["noise"]:
        deviation, stderr = math.sqrt(one["variance"]), one["variance_stderr"] / (2 * math.sqrt(one["variance"]))
        ratio = f"{one['trace'] / signal:.2f} ± {one['trace_stderr'] / signal:.2f}" if signal > 0 else "only noise"
        shown.add_row(one["masking"], f"{one['loss']:.3f}", f"{deviation:.4f} ± {stderr:.4f}", ratio)
    shown.add_section()
    shown.add_row("sampler", "evaluations", "with a token", "valid", "worth so many grids", style="bold")
    for name, samples in (("random order", measured["by_token"]), ("ancestral", measured["by_time"])):
        for one in samples:
            needed = one.get("needed", one["evaluations"])
            worth = f"{one['worth']:.0f}" if one["worth"] else ""
            shown.add_row(
                f"{name}, {one['steps']} steps", f"{one['evaluations']:.1f}", f"{needed:.1f}", _share(one), worth
            )
    shown.add_section()
    shown.add_row("loss", "learning rate", "bound, nats per grid", "valid", "runs", style="bold")
    for objective, name in WEIGHTS.items():
        for one in by_rate(measured["runs"][objective]):
            bound = f"{one['bound']:.3f} ± {one['bound_stderr']:.3f}"
            valid = f"{one['valid']:.1%} ± {one['valid_stderr']:.1%}"
            shown.add_row(name, f"{one['rate']:g}", bound, valid, str(one["runs"]))
    return shown


def _share(one: Mapping[str, Any]) -> str:
    low, high = wilson(one["valid"], one["samples"])
    return f"{one['valid'] / one['samples']:.1%} ({low:.1%}–{high:.1%})"


def finding(measured: Mapping[str, Any]) -> str:
    """One sentence for each part, with two standard errors."""
    losses, gradients = (relative(measured["noise"], name)[-1] for name in ("variance", "trace"))
    one, whole = (max(measured[key], key=lambda found: found["steps"]) for key in ("by_token", "by_time"))
    equal = min(measured["by_time"], key=lambda found: abs(found["evaluations"] - one["evaluations"]))
    weighted, plain = (best(measured["runs"][objective]) for objective in WEIGHTS)
    return (
        f"With exact, stratified counts the loss of a batch deviates {losses[0]:.2f} ± {2 * losses[1]:.2f} times as "
        f"much as with 1/t and independent t, its gradient {gradients[0]:.2f} ± {2 * gradients[1]:.2f} times. Of grids "
        f"sampled cell by cell in {one['evaluations']:.0f} evaluations {_valid(one)} are valid, with time in steps "
        f"{_valid(equal)} after {equal['evaluations']:.1f} evaluations and {_valid(whole)} after "
        f"{whole['evaluations']:.1f} ({whole['needed']:.1f}, were those skipped that reveal nothing). At the best "
        f"rates the weight 1/t reaches {_reached(weighted)}, no weight {_reached(plain)} ({weighted['runs']} runs "
        f"each; no bound is below {measured['entropy']:.3f})."
    )


def _reached(one: Mapping[str, Any]) -> str:
    return (
        f"a bound of {one['bound']:.3f} ± {2 * one['bound_stderr']:.3f} nats per grid and {one['valid']:.1%} ± "
        f"{2 * one['valid_stderr']:.1%} valid samples"
    )


def _valid(one: Mapping[str, Any]) -> str:
    share = one["valid"] / one["samples"]
    return f"{share:.1%} ± {2 * math.sqrt(share * (1 - share) / one['samples']):.1%}"


def draw(measured: Mapping[str, Any]) -> Figure:
    """Noise by masking, valid samples by evaluations, and both goods by weight. Intervals are of 95 %."""
    figure, (left, middle, right) = panels(3)
    _draw_noise(left, measured["noise"])
    _draw_samplers(middle, measured)
    for number, (objective, name) in enumerate(WEIGHTS.items()):
        rates = by_rate(measured["runs"][objective])
        bounds, shares = [one["bound"] for one in rates], [100 * one["valid"] for one in rates]
        right.errorbar(
            bounds,
            shares,
            [100 * Z * one["valid_stderr"] for one in rates],
            [Z * one["bound_stderr"] for one in rates],
            fmt="os"[number],
            capsize=2,
            color=COLOURS[number],
            label=name,
        )
        for one, bound, share in zip(rates, bounds, shares, strict=True):
            right.annotate(
                f"{one['rate']:g}", (bound, share), (5, 5), textcoords="offset points", color=COLOURS[number]
            )
    right.axvline(measured["entropy"], color="0.4", linestyle="--", linewidth=1, label="exact: log 288")
    right.set(
        xlabel="bound on -log p, nats per grid",
        ylabel="valid grids, %",
        title=f"{measured['steps']} steps at the learning rates written beside",
    )
    right.legend()
    return figure


def _draw_noise(axis: Axes, noise: Sequence[Mapping[str, Any]]) -> None:
    for number, (name, label) in enumerate((("variance", "loss of a batch"), ("trace", "its gradient"))):
        shares = relative(noise, name)
        places = [place + (number - 0.5) * 0.38 for place in range(len(noise))]
        axis.bar(
            places,
            [share for share, _ in shares],
            0.36,
            yerr=[Z * stderr for _, stderr in shares],
            capsize=3,
            color=COLOURS[number],
            label=label,
        )
    axis.set_xticks(range(len(noise)), [one["masking"].replace(", ", ",\n") for one in noise], fontsize=8)
    axis.set(ylabel="standard deviation, of the first one", title="Noise of a training step")
    axis.legend()


def _draw_samplers(axis: Axes, measured: Mapping[str, Any]) -> None:
    for number, (key, counted, label) in enumerate(
        (
            ("by_token", "evaluations", "random order, equal shares"),
            ("by_time", "evaluations", "ancestral, steps of time"),
            ("by_time", "needed", "the same, empty steps skipped"),
        )
    ):
        found = sorted(measured[key], key=lambda one: one[counted])
        shares = [100 * one["valid"] / one["samples"] for one in found]
        limits = [wilson(one["valid"], one["samples"]) for one in found]
        errors = [
            [share - 100 * limit.low for share, limit in zip(shares, limits, strict=True)],
            [100 * limit.high - share for share, limit in zip(shares, limits, strict=True)],
        ]
        style = {"fmt": ("o-", "s-", "s:")[number], "color": COLOURS[(0, 1, 1)[number]], "markersize": 4, "capsize": 2}
        axis.errorbar([one[counted] for one in found], shares, errors, label=label, **style)
    axis.set(
        xscale="log",
        xlabel="network evaluations of a sample",
        ylabel="valid grids, %",
        title="Sampling at temperature 1",
    )
    axis.legend()


EXPERIMENT = Experiment(
    question="What is left to decide where a masked diffusion model does not see the time?",
    settings=Settings,
    run=run,
    table=table,
    finding=finding,
    draw=draw,
)
