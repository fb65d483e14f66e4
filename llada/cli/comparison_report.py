"""What `llada compare` prints and keeps: both models, their difference, and which is better if that is shown."""

import math
from typing import Any

from rich import box
from rich.table import Table

from llada.cli.console import table_console
from llada.estimate import Estimate
from llada.eval.comparison import Comparison
from llada.eval.contenders import Contender
from llada.eval.intervals import around
from llada.eval.likelihood import perplexity


def show(first: Contender, second: Contender, found: Comparison, precision: float | None) -> None:
    """Print the table, and what it shows."""
    table = Table("", "", box=box.SIMPLE, padding=(0, 2, 0, 0))
    for header in ("nats per token", "perplexity", "evaluations"):
        table.add_column(header, justify="right", no_wrap=True)
    for one, estimate in ((first, found.first), (second, found.second)):
        likely = _perplexity(estimate)
        shown = _nats(estimate), f"{likely.value:.4g} ± {likely.stderr:.2g}", f"{estimate.samples:,}"
        table.add_row(one.name, "=" if one.is_exact else "≤", *shown)
    table.add_row("difference", "", _nats(found.difference))
    console = table_console()
    console.print(table)
    console.print(verdict(first, second, found), soft_wrap=True)
    if precision is not None and found.difference.stderr > precision:
        left = f"± {found.of_rows:.4f} of it is of the rows, which more masks do not lessen: give more rows"
        console.print(f"not as precise as asked for: {left}", soft_wrap=True)


def verdict(first: Contender, second: Contender, found: Comparison) -> str:
    """Which model is better, and by how much, where the interval shows it."""
    value, error = found.difference.value, found.difference.stderr
    low, high = around(value, error)
    if low <= 0 <= high:
        return f"no difference is shown: {value:+.4f} ± {error:.4f} nats per token (95 %: {low:+.4f} to {high:+.4f})"
    better, other = (first, second) if value < 0 else (second, first)
    low, high = sorted((abs(low), abs(high)))
    text = f"{better.name} is better by {abs(value):.4f} ± {error:.4f} nats per token (95 %: {low:.4f} to {high:.4f})"
    if better.is_exact and not other.is_exact:
        text += f"; of {other.name} only a bound is known"
    return text


def record(first: Contender, second: Contender, found: Comparison) -> dict[str, Any]:
    """The same for a file, with null for a perplexity that no float holds."""
    low, high = around(found.difference.value, found.difference.stderr)
    return {
        "difference": _numbers(found.difference) | {"low": low, "high": high, "stderr_of_masks": found.of_masks},
        "first": _side(first, found.first),
        "second": _side(second, found.second),
    }


def _side(one: Contender, estimate: Estimate) -> dict[str, Any]:
    likely = _perplexity(estimate)
    more = {"perplexity": likely.value, "perplexity_stderr": likely.stderr}
    finite = {name: value if math.isfinite(value) else None for name, value in more.items()}
    return one.description() | _numbers(estimate) | finite | {"evaluations": estimate.samples}


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {"nats_per_token": estimate.value, "stderr": estimate.stderr}


def _perplexity(nats_per_token: Estimate) -> Estimate:
    return perplexity(nats_per_token._replace(value=-nats_per_token.value), 1)


def _nats(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} ± {estimate.stderr:.4f}"
