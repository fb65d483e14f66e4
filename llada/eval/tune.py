"""The choice of an operating point: samplers are measured on a task, and the cheapest accurate one is taken."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from llada.eval.choice import Choice, check_tolerance, choose, halves, limit_of_loss, pareto
from llada.eval.grid import SWEPT
from llada.eval.intervals import Interval, wilson
from llada.eval.measure import Measurement
from llada.eval.results import Results
from llada.sampling.config import SamplerConfig

Cost = Literal["time", "passes"]


def sweep(
    samplers: Iterable[SamplerConfig], measured: Callable[[SamplerConfig], Measurement], results: Results
) -> Iterator[Measurement]:
    """The measurement of each sampler, one after another: that of the results, or a new one, which they then keep."""
    for sampler in samplers:
        known = results.find(sampler)
        if known is None:
            known = measured(sampler)
            results.add(known)
        yield known


class Rows(NamedTuple):
    """Which rows the choice may see."""

    choose: list[int]
    judge: list[int]  # those that it may not; without a split all rows are in both


def rows_of(rows: int, tolerance: float, *, split: bool, seed: int) -> Rows:
    """Halves, or everything twice. Raises ValueError where they are too few for the tolerance (`check_tolerance`)."""
    everything = list(range(rows))
    shared = Rows(*halves(rows, seed)) if split else Rows(everything, everything)
    check_tolerance(tolerance, len(shared.choose))
    return shared


class Verdict(NamedTuple):
    """How well a sampler does on some rows."""

    accuracy: float
    interval: Interval
    lost: float  # against the reference: share of right answers, negative where there are more
    lost_at_most: float


class OperatingPoint(NamedTuple):
    choice: Choice
    fronts: dict[Cost, list[int]]  # on the rows of the choice, the places of samplers that no other one beats
    verdict: Verdict  # on the chosen one beside the best, by the rows to judge by


COSTS: dict[Cost, Callable[[Measurement], float]] = {
    "time": lambda measurement: measurement.seconds_per_answer,
    "passes": lambda measurement: measurement.passes_per_answer,
}


def operating_point(measurements: list[Measurement], rows: Rows, *, by: Cost, tolerance: float) -> OperatingPoint:
    """The cheapest sampler that is hardly less accurate; `llada.eval.choice` says what that promises."""
    marks = [[one.right[i] for i in rows.choose] for one in measurements]
    costs: dict[Cost, list[float]] = {name: [cost(one) for one in measurements] for name, cost in COSTS.items()}
    accuracies = [one.accuracy(rows.choose) for one in measurements]
    choice = choose(marks, costs[by], tolerance)
    fronts: dict[Cost, list[int]] = {name: pareto(accuracies, of_all) for name, of_all in costs.items()}
    best, chosen = measurements[choice.best], measurements[choice.chosen]
    return OperatingPoint(choice, fronts, verdict(chosen, best, rows.judge))


def verdict(measurement: Measurement, reference: Measurement, rows: list[int]) -> Verdict:
    """The measurement on these rows, beside the reference on the same ones."""
    marks, others = [measurement.right[i] for i in rows], [reference.right[i] for i in rows]
    lost = (sum(others) - sum(marks)) / len(rows)
    return Verdict(sum(marks) / len(rows), wilson(sum(marks), len(rows)), lost, limit_of_loss(others, marks))


def described(sampler: SamplerConfig) -> str:
    """What tells it from the others of a grid."""
    values = {field: getattr(sampler, field) for field in SWEPT if field != "reveal"}
    return " ".join(f"{field}={value}" for field, value in values.items() if value not in (None, "none"))
