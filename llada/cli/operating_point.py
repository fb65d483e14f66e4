"""The table of `llada tune`: the samplers that no other one beats, and what is known of the chosen one."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from llada.cli.console import table_console
from llada.eval.grid import Grid
from llada.eval.intervals import wilson
from llada.eval.measure import Measurement
from llada.eval.tune import OperatingPoint, Rows, described


def announce(tried: Grid, rows: int) -> None:
    """Print how much is going to be measured, and what is not."""
    Console(highlight=False, soft_wrap=True).print(
        f"{len(tried.samplers)} samplers × {rows} rows; left out are {tried.refused} combinations that make no sampler "
        f"and {tried.repeated} that compute what another one does"
    )


def record(tried: Grid, measurements: list[Measurement], rows: Rows, point: OperatingPoint) -> dict[str, Any]:
    """The table and the choice, as `--json` prints them; shares are of 1, intervals of 95 %.

    Keys: how many `samplers` were measured, and combinations `refused` and `repeated`; the `table`, dearest first, of
    what is on a front, best or chosen; and what is known of the `chosen` one by the rows to judge by. A row of the
    table has the fields of its `sampler`; the share that is `right` of `rows`, those to choose by, from `low` to
    `high`; `loses_at_most`, a share; for an answer `forward_passes`, `positions` and `seconds`; `tokens_per_second`;
    the names of the fronts that it is on, `front_of`; whether it is `best` and `chosen`. Of the chosen one are told
    `sampler`, `right`, `low`, `high` and `rows` by those to judge by, whether these had `no_part_in_choice`, how much
    it `loses` there against the best (less than 0: gains) and `loses_at_most`, and whether it is `shown` to be within
    the tolerance.
    """
    chosen, verdict = measurements[point.choice.chosen], point.verdict
    return {
        "samplers": len(tried.samplers),
        "refused": tried.refused,
        "repeated": tried.repeated,
        "table": [_row(i, measurements, rows, point) for i in _shown(measurements, point)],
        "chosen": {
            "sampler": chosen.sampler.model_dump(exclude_unset=True),
            "right": verdict.accuracy,
            "low": verdict.interval.low,
            "high": verdict.interval.high,
            "rows": len(rows.judge),
            "no_part_in_choice": rows.judge != rows.choose,
            "loses": verdict.lost,
            "loses_at_most": verdict.lost_at_most,
            "shown": point.choice.shown,
        },
    }


def _shown(measurements: list[Measurement], point: OperatingPoint) -> list[int]:
    """The places of those that are told of, dearest first."""
    told = {point.choice.best, point.choice.chosen}.union(*point.fronts.values())
    return sorted(told, key=lambda i: (-measurements[i].passes_per_answer, -measurements[i].seconds_per_answer, i))


def _row(i: int, measurements: list[Measurement], rows: Rows, point: OperatingPoint) -> dict[str, Any]:
    one = measurements[i]
    low, high = wilson(sum(one.right[row] for row in rows.choose), len(rows.choose))
    return {
        "sampler": one.sampler.model_dump(exclude_unset=True),
        "right": one.accuracy(rows.choose),
        "low": low,
        "high": high,
        "rows": len(rows.choose),
        "loses_at_most": point.choice.limits[i],
        "forward_passes": one.passes_per_answer,
        "positions": one.positions_per_answer,
        "seconds": one.seconds_per_answer,
        "tokens_per_second": one.tokens_per_second,
        "front_of": [name for name, front in point.fronts.items() if i in front],
        "best": i == point.choice.best,
        "chosen": i == point.choice.chosen,
    }


def show(measurements: list[Measurement], rows: Rows, point: OperatingPoint) -> None:
    """Print the two fronts as one table, dearest first, and the verdict on the chosen sampler."""
    table = Table("", "steps", "threshold", "block", "cache", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("right (95 %)", justify="right", no_wrap=True)
    for header in ("loses ≤", "passes", "positions", "ms", "tokens/s"):
        table.add_column(header, justify="right")
    table.add_column("front of")
    for i in _shown(measurements, point):
        sampler, told = measurements[i].sampler, _row(i, measurements, rows, point)
        table.add_row(
            "→" if told["chosen"] else "",
            str(sampler.steps) if sampler.threshold is None else "",
            "" if sampler.threshold is None else f"{sampler.threshold:g}",
            str(sampler.block_length or "whole"),
            sampler.cache,
            f"{told['right']:.1%} ({told['low']:.1%}–{told['high']:.1%})",
            f"{told['loses_at_most']:.1%}",
            f"{told['forward_passes']:.2f}",
            f"{told['positions']:.0f}",
            f"{1000 * told['seconds']:.1f}",
            f"{told['tokens_per_second']:.0f}",
            " ".join(told["front_of"]),
        )
    console = table_console()
    console.print(table)
    console.print(f"→ {described(measurements[point.choice.chosen].sampler)}: {headline(measurements, rows, point)}")


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
