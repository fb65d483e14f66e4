"""What the experiment without time has measured, as a table, in words and as a figure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from rich.table import Table

from llada.eval.intervals import Z
from llada.experiments.figures import COLOURS, panels
from llada.experiments.loss_noise import relative
from llada.experiments.shares import error_bars, percent

WEIGHTS = {"elbo": "weight 1/t", "uniform": "no weight"}  # objective → how it is called


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean bound over the seeds of one rate, and all bounds and shares of valid samples, ascending."""
    bounds, shares = [run["bound"] for run in runs], [run["valid"] / run["samples"] for run in runs]
    return {
        "rate": runs[0]["rate"],
        "runs": len(runs),
        "bound": float(np.mean(bounds)),
        "bounds": sorted(bounds),
        "valid": sorted(shares),
    }


def by_rate(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The summary of each rate, ascending."""
    return [summary([run for run in runs if run["rate"] == rate]) for rate in sorted({run["rate"] for run in runs})]


def best(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the rates, the one with the lowest bound."""
    return min(by_rate(runs), key=lambda found: found["bound"])


def differences(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[float]:
    """By how much the bound is higher without a weight, of each pair of one rate and seed, ascending.

    The two of a pair begin with the same weights and see the same rows and masks.
    """
    pairs = zip(runs["uniform"], runs["elbo"], strict=True)
    return sorted(plain["bound"] - weighted["bound"] for plain, weighted in pairs)


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
            evaluations = (f"{one['evaluations']:.1f}", f"{needed:.1f}")
            shown.add_row(
                f"{name}, {one['steps']} steps", *evaluations, percent(one["valid"], one["samples"]), _worth(one)
            )
    shown.add_section()
    shown.add_row("loss", "learning rate", "bound, nats per grid", "valid", "runs", style="bold")
    for objective, name in WEIGHTS.items():
        for one in by_rate(measured["runs"][objective]):
            bounds, shares = _span(one["bounds"], ".3f"), _span(one["valid"], ".1%")
            shown.add_row(name, f"{one['rate']:g}", bounds, shares, str(one["runs"]))
    return shown


def _span(values: Sequence[float], how: str) -> str:
    """From the least to the greatest; of few runs nothing else can be said."""
    return f"{values[0]:{how}} to {values[-1]:{how}}"


def _worth(one: Mapping[str, Any]) -> str:
    if not one["worth"]:
        return ""
    same = one["valid"] * (one["valid"] - 1) / 2 / one["worth"]  # pairs, nearly Poisson
    return f"{one['worth']:.0f} ± {one['worth'] / math.sqrt(same):.0f}"


def finding(measured: Mapping[str, Any]) -> str:
    """One sentence for each part: with two standard errors, the 95 % interval of a share, or over all runs."""
    losses, gradients = (relative(measured["noise"], name)[-1] for name in ("variance", "trace"))
    one, whole = (max(measured[key], key=lambda found: found["steps"]) for key in ("by_token", "by_time"))
    equal = min(measured["by_time"], key=lambda found: abs(found["evaluations"] - one["evaluations"]))
    weighted, plain = (best(measured["runs"][objective]) for objective in WEIGHTS)
    changes = differences(measured["runs"])
    valid = [percent(found["valid"], found["samples"]) for found in (one, equal, whole)]
    return (
        f"With exact, stratified counts the loss of a batch deviates {losses[0]:.2f} ± {2 * losses[1]:.2f} times as "
        f"much as with 1/t and independent t, its gradient {gradients[0]:.2f} ± {2 * gradients[1]:.2f} times"
        f"{', which shows no difference' * (abs(gradients[0] - 1) < 2 * gradients[1])}. Of grids "
        f"sampled cell by cell in {one['evaluations']:.0f} evaluations {valid[0]} are valid, with time in steps "
        f"{valid[1]} after {equal['evaluations']:.1f} evaluations and {valid[2]} after "
        f"{whole['evaluations']:.1f} ({whole['needed']:.1f}, were those skipped that reveal nothing). Of the rates "
        f"tried, the weight 1/t does best at {_reached(weighted)}, no weight at {_reached(plain)} ({weighted['runs']} "
        f"runs each; no bound is below {measured['entropy']:.2f}). Over all {len(changes)} pairs of runs with one rate "
        f"and seed, the bound without a weight is by {_span(changes, '+.2f')} nats higher"
        f"{', which shows no difference' * (changes[0] < 0 < changes[-1])}."
    )


def _reached(one: Mapping[str, Any]) -> str:
    return (
        f"{one['rate']:g}, with bounds of {_span(one['bounds'], '.2f')} nats per grid and "
        f"{_span(one['valid'], '.1%')} valid samples"
    )


def draw(measured: Mapping[str, Any]) -> Figure:
    """Noise by masking, valid samples by evaluations, and both goods by weight. Intervals are of 95 %."""
    figure, (left, middle, right) = panels(3)
    _draw_noise(left, measured["noise"])
    _draw_samplers(middle, measured)
    _draw_runs(right, measured)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=8)
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
    axis.set(ylabel="standard deviation / that of the first", title="Noise of a training step (bars: 95 %)")
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
        style = {"fmt": ("o-", "s-", "s:")[number], "color": COLOURS[(0, 1, 1)[number]], "markersize": 4, "capsize": 2}
        axis.errorbar(
            [one[counted] for one in found],
            *error_bars((one["valid"], one["samples"]) for one in found),
            label=label,
            **style,
        )
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set(
        xlabel="network evaluations of a sample",
        ylabel="valid grids, %",
        title="Sampling at temperature 1",
    )
    axis.legend(fontsize=8)


def _draw_runs(axis: Axes, measured: Mapping[str, Any]) -> None:
    """Each run is a point, so that what two weights share is seen beside what runs differ by."""
    for number, (objective, name) in enumerate(WEIGHTS.items()):
        runs = measured["runs"][objective]
        for shape, rate in enumerate(sorted({run["rate"] for run in runs})):
            some = [run for run in runs if run["rate"] == rate]
            axis.errorbar(
                [run["bound"] for run in some],
                *error_bars((one["valid"], one["samples"]) for one in some),
                [Z * run["bound_stderr"] for run in some],
                fmt="osD^v"[shape % 5],
                markersize=5,
                color=COLOURS[number],
                label=f"{name}, learning rate {rate:g}",
            )
    axis.axvline(measured["entropy"], color="0.4", linestyle="--", linewidth=1, label="exact: log 288")
    axis.set(
        xlabel="bound on -log p, nats per grid",
        ylabel="valid grids, %",
        title=f"Runs of {measured['steps']} steps, sampled cell by cell",
    )
