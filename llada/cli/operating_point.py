"""The table of `llada tune`: the samplers that no other one beats, and what is known of the chosen one."""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from llada.cli.console import table_console
from llada.eval.grid import Grid
from llada.eval.intervals import wilson
from llada.eval.measure import Measurement
from llada.eval.tune import OperatingPoint, Rows, described
from llada.sampling.config import SamplerConfig


def announced(tried: Grid, rows: int) -> Iterable[SamplerConfig]:
    """The samplers, with a bar as they are gone through; prints how much is going to be measured, and what is not."""
    Console(highlight=False, soft_wrap=True).print(
        f"{len(tried.samplers)} samplers × {rows} rows; left out are {tried.refused} combinations that make no sampler "
        f"and {tried.repeated} that compute what another one does"
    )
    return tqdm(tried.samplers, unit="sampler", disable=None)


def show(measurements: list[Measurement], rows: Rows, point: OperatingPoint) -> None:
    """Print the two fronts as one table, dearest first, and the verdict on the chosen sampler."""
    best, chosen, _, limits = point.choice
    on_front = [[name for name, front in point.fronts.items() if i in front] for i in range(len(measurements))]
    shown = [i for i, fronts in enumerate(on_front) if fronts or i in (best, chosen)]
    table = Table("", "steps", "threshold", "block", "cache", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("right (95 %)", justify="right", no_wrap=True)
    for header in ("loses ≤", "passes", "positions", "ms", "tokens/s"):
        table.add_column(header, justify="right")
    table.add_column("front of")
    for i in sorted(shown, key=lambda i: (-measurements[i].passes_per_answer, -measurements[i].seconds_per_answer)):
        one = measurements[i]
        right = [one.right[row] for row in rows.choose]
        low, high = wilson(sum(right), len(right))
        table.add_row(
            "→" if i == chosen else "",
            str(one.sampler.steps) if one.sampler.threshold is None else "",
            "" if one.sampler.threshold is None else f"{one.sampler.threshold:g}",
            str(one.sampler.block_length or "whole"),
            one.sampler.cache,
            f"{one.accuracy(rows.choose):.1%} ({low:.1%}–{high:.1%})",
            f"{limits[i]:.1%}",
            f"{one.passes_per_answer:.2f}",
            f"{one.positions_per_answer:.0f}",
            f"{1000 * one.seconds_per_answer:.1f}",
            f"{one.tokens_per_second:.0f}",
            " ".join(on_front[i]),
        )
    console = table_console()
    console.print(table)
    console.print(f"→ {described(measurements[chosen].sampler)}: {headline(measurements, rows, point)}")


def headline(measurements: list[Measurement], rows: Rows, point: OperatingPoint) -> str:
    """One line on the chosen sampler."""
    choice, verdict = point.choice, point.verdict
    best, chosen = measurements[choice.best], measurements[choice.chosen]
    low, high = verdict.interval
    seen = "that it was chosen by, which flatters it" if rows.judge == rows.choose else "that it was not chosen by"
    parts = [f"{verdict.accuracy:.1%} right ({low:.1%}–{high:.1%}) of {len(rows.judge)} rows {seen}"]
    if choice.best != choice.chosen:
        parts.append(f"{-verdict.lost:+.1%} against {described(best.sampler)}, {-verdict.lost_at_most:+.1%} at worst")
    if not choice.shown:
        parts.append("no sampler is shown to be within the tolerance, this one comes nearest; give more rows")
    parts.append(f"{chosen.passes_per_answer:.2f} forward passes, {1000 * chosen.seconds_per_answer:.1f} ms an answer")
    return "; ".join(parts)
