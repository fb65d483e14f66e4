"""Two models on the same texts and the same masks: by how much one is better, with the error of that.

The masks and the texts that are hard for one model are hard for the other, so that the difference is known better than
either value. A causal model has no masks; its likelihood is exact, where that of a mask predictor is bounded.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.estimate import Estimate, check_rows, per_token
from llada.eval.causal import Causal, causal_log_likelihoods
from llada.eval.heldout import Row
from llada.eval.likelihood import Masks, combined, enumerable, exact_count, rounds_of_masks, values_under
from llada.eval.responses import Responses, key_of
from llada.eval.scoring import Request
from llada.sampling.predictors import MaskPredictor

Model = MaskPredictor | Causal
Watch = Callable[[Sequence[Any]], Iterable[Any]]  # goes through what is to be done; a bar, for example


class Paired(NamedTuple):
    """The log-likelihood of one request under two models, in nats; the errors are those of the masks."""

    first: Estimate
    second: Estimate
    difference: Estimate  # first minus second


class Comparison(NamedTuple):
    """Nats per token of all rows, the fewer the better; the errors are over rows, and hold those of the masks."""

    first: Estimate  # the bound, or the negative log-likelihood of a causal model
    second: Estimate
    difference: Estimate  # first minus second
    of_masks: float  # the part of the difference's standard error that more masks would lessen

    @property
    def of_rows(self) -> float:
        """The part that would be left however many masks were taken, as far as can be seen."""
        return math.sqrt(max(0.0, self.difference.stderr**2 - self.of_masks**2))


def compare(
    first: Model,
    second: Model,
    requests: Iterable[Request],
    samples: int = 128,
    seed: int = 0,
    *,
    batch_size: int = 32,
    watch: Watch = iter,
    kept: Responses | None = None,
) -> Iterator[list[Paired]]:
    """Each request under both models: after one round of `samples` masks, after two, and so on.

    Ends where another round would tell nothing new, as all masks were seen or there are none. Raises as
    `log_likelihood` and `causal_log_likelihoods`.

    Args: kept: where what the models say is kept as soon as it is known, and not asked again.
    """
    requests, models, kept = list(requests), (first, second), Responses() if kept is None else kept
    exact = [enumerable(request, samples) for request in requests]
    # drawn for each model anew, as all masks of a large file would not fit into memory
    drawn = [[rounds_of_masks(request, samples, seed, exact_count) for request in requests] for _ in models]
    values: list[list[list[Tensor]]] = [[[] for _ in requests] for _ in models]  # of each model, request and round
    unseen = list(range(len(requests)))
    for number in count():
        for side, model in enumerate(models):
            if number > 0 and isinstance(model, Causal):  # its likelihood does not depend on the masks
                for i in unseen:
                    values[side][i].append(values[side][i][0])
                continue
            keys = [key_of("compare", (side, number, i)) for i in range(len(requests))]
            missing = [i for i in unseen if kept.find(keys[i]) is None]
            for i in {*unseen} - {*missing}:
                next(drawn[side][i])  # of the masks that were seen, so that the next ones follow
            masks = ((requests[i], next(drawn[side][i])) for i in watch(missing))
            for i, found in zip(missing, _values(model, masks, batch_size), strict=True):
                kept.add(keys[i], {"values": found.tolist()})
            for i in unseen:
                values[side][i].append(_kept_values(kept, keys[i]))
        yield [_paired(models, [of_model[i] for of_model in values], exact=exact[i]) for i in range(len(requests))]
        unseen = [i for i in unseen if not exact[i]]
        if not unseen or all(isinstance(model, Causal) for model in models):
            return


def compare_rows(
    first: Model,
    second: Model,
    rows: Sequence[Row],
    samples: int = 8,
    seed: int = 0,
    *,
    batch_size: int = 32,
    watch: Watch = iter,
    kept: Responses | None = None,
) -> Iterator[Comparison]:
    """All rows together, per token, round after round as for `compare`. Raises as it and as `over_rows`."""
    check_rows(len(rows))
    requests = [request for row in rows for request in row.requests]
    for pairs in compare(first, second, requests, samples, seed, batch_size=batch_size, watch=watch, kept=kept):
        yield over_rows(rows, pairs)


def check_precision(precision: float | None) -> None:
    """Raise ValueError for one that is not more than 0 and finite."""
    if precision is not None and not 0 < precision < math.inf:
        raise ValueError(f"precision={precision:g} must be more than 0 and finite, a standard error in nats per token")


def until(found: Iterator[Comparison], precision: float | None) -> Comparison:
    """The first whose difference has a standard error of at most `precision`, None being the first of all.

    The last one where there are no more, and one whose error is that of the rows, which more masks do not lessen.

    Raises ValueError as `check_precision`.
    """
    check_precision(precision)
    comparison = next(found)
    if precision is not None:
        while comparison.difference.stderr > precision >= comparison.of_rows:
            if (more := next(found, None)) is None:
                break
            comparison = more
    return comparison


def over_rows(rows: Sequence[Row], pairs: Sequence[Paired]) -> Comparison:
    """The requests of all rows, one after another, together. Raises ValueError as `per_token`.

    FloatingPointError where a model holds a text to be impossible, so that no mean of it means anything.
    """
    of_row = torch.repeat_interleave(torch.tensor([len(row.requests) for row in rows]))
    lengths = torch.tensor([row.tokens for row in rows], dtype=torch.float64)
    totals = []
    for estimates in zip(*pairs, strict=True):
        values = torch.tensor([each.value for each in estimates], dtype=torch.float64)
        if not values.isfinite().all():
            number = int(of_row[~values.isfinite()][0]) + 1
            raise FloatingPointError(f"row {number} has a token of probability 0; leave it out, or take another dtype")
        sums = torch.zeros(len(rows), dtype=torch.float64).index_add(0, of_row, values)
        totals.append(per_token(-sums, lengths, sum(each.samples for each in estimates)))
    of_masks = math.hypot(*(pair.difference.stderr for pair in pairs)) / float(lengths.sum())
    first, second, difference = totals
    return Comparison(first, second, difference, of_masks)


def _kept_values(kept: Responses, key: str) -> Tensor:
    response = kept.find(key)
    assert response is not None
    return torch.tensor(response["values"], dtype=torch.float64)


def _values(model: Model, masks: Iterator[tuple[Request, Masks]], batch_size: int) -> Iterator[Tensor]:
    """Of each request, what each evaluation says, float64 (n,): of a causal model the same, whatever is masked."""
    if not isinstance(model, Causal):
        yield from values_under(model, masks, batch_size=batch_size)
        return
    waiting: list[tuple[Request, Tensor]] = []

    def requests() -> Iterator[Request]:
        for request, one in masks:
            waiting.append((request, one.weight))
            yield request

    for likelihood in causal_log_likelihoods(model, requests(), batch_size=batch_size):
        request, weight = waiting.pop(0)
        n = len(weight)
        yield torch.full_like(weight, likelihood.value / (n if enumerable(request, n) else 1))


def _paired(models: tuple[Model, Model], values: list[list[Tensor]], *, exact: bool) -> Paired:
    first, second = (
        combined(rounds, exact=exact)._replace(**({"samples": 1} if isinstance(model, Causal) else {}))
        for model, rounds in zip(models, values, strict=True)
    )
    return Paired(first, second, combined([a - b for a, b in zip(*values, strict=True)], exact=exact))
