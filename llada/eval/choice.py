"""Which sampler to take: the Pareto front of accuracy and cost, and the cheapest one that is hardly less accurate.

What the choice promises: a sampler passes when it is shown to lose at most the tolerance against every other one, so
against the truly best, too, whichever that is. Of a sampler that was picked before its answers were seen and that
loses more, the chance to pass is at most about 4 % (`loss_limit`), however many it is compared with. It is not so
small for the one that is chosen: of many, the cheapest to pass is the likeliest to have been lucky, and for the same
reason its accuracy is flattered on the rows that it was chosen by. It should be judged by rows that had no part in the
choice (`halves`): there its accuracy is without bias, and so is its loss against another one. All of it takes the rows
for independent draws of what will be asked.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from llada.eval.intervals import least_loss_limit, loss_limit, rows_to_show

Marks = Sequence[bool]  # of each row, whether the answer is right


class Choice(NamedTuple):
    """Which of several samplers, by their place."""

    best: int  # the most accurate on these rows; of equals the cheapest
    chosen: int
    shown: bool  # that the chosen one loses at most the tolerance
    limits: list[float]  # what each may lose against any other, at most


def choose(marks: Sequence[Marks], costs: Sequence[float], tolerance: float) -> Choice:
    """The cheapest sampler whose `loss_limit` against every other one is at most `tolerance`.

    If there is none, as the rows are too few for how much the answers differ, it is the one with the smallest limit.

    Args:
        marks: of each sampler, on the same rows.
        costs: of each sampler.
        tolerance: share of right answers that may be given up; `check_tolerance` says which ones can be shown.
    """
    if not marks:
        raise ValueError("there are no samplers to choose from")
    check_tolerance(tolerance, len(marks[0]))
    limits = [max(limit_of_loss(reference, of_one) for reference in marks) for of_one in marks]
    passing = [i for i, limit in enumerate(limits) if limit <= tolerance]
    best = max(range(len(marks)), key=lambda i: (sum(marks[i]), -costs[i]))
    if passing:
        chosen = min(passing, key=lambda i: (costs[i], limits[i]))
    else:
        chosen = min(range(len(marks)), key=lambda i: (limits[i], costs[i]))
    return Choice(best, chosen, bool(passing), limits)


def limit_of_loss(reference: Marks, other: Marks) -> float:
    """The most that `other` may lose against the reference, whose rows are the same."""
    pairs = list(zip(reference, other, strict=True))
    return loss_limit(pairs.count((True, False)), pairs.count((False, True)), len(pairs))


def check_tolerance(tolerance: float, rows: int) -> None:
    """Raise ValueError where not even equal answers to so many rows would show a loss to be within the tolerance."""
    least = least_loss_limit(rows)
    if not least <= tolerance < 1:
        enough = rows_to_show(tolerance) if 0 < tolerance < 1 else None
        more = "" if enough is None else f"give {enough} rows or more to choose by, or "
        raise ValueError(
            f"tolerance={tolerance:g}: by {rows} rows, not even equal answers show a loss of less than {least:.4f}; "
            f"{more}set a tolerance from {least:.4f} to 1"
        )


def pareto(accuracies: Sequence[float], costs: Sequence[float]) -> list[int]:
    """The places of those that no other one beats; one beats another where it is as good in both and better in one."""
    points = list(zip(accuracies, costs, strict=True))
    return [
        i
        for i, (accuracy, cost) in enumerate(points)
        if not any(a >= accuracy and c <= cost and (a, c) != (accuracy, cost) for a, c in points)
    ]


def halves(rows: int, seed: int) -> tuple[list[int], list[int]]:
    """The rows to choose by, one more of an odd number, and the rows to judge by; drawn, whatever their order means."""
    judge = sorted(Random(seed).sample(range(rows), rows // 2))
    return sorted(set(range(rows)) - set(judge)), judge
