"""The exact output law of a sampler, by enumeration: no Monte Carlo is involved.

The loop is a Markov chain over canvases. One real step of `denoise` is run, in one batch, for every canvas that can
occur, every draft, and every outcome of its other random choices (an order, or which independent events happen), each
with its probability; equal canvases are then merged.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llada.sampling.denoise import denoise


class Scripted:
    """Numbers for the loop that are written down beforehand, one row of (rows, L) per batch row and stream."""

    def __init__(self, rows: int, order: Tensor | None, events: Tensor | None):
        self.rows, self.streams = rows, {1: order, 2: events}

    def __call__(self, block: slice, step: int, stream: int) -> Tensor:
        script = self.streams.get(stream)
        if script is None:
            return torch.full((self.rows, block.stop - block.start), 0.5, dtype=torch.float64)
        return script[:, block]


def chain(
    bed,
    predict: Callable[[Tensor], Tensor],
    steps: int,
    *,
    until: int | None = None,
    begin: Tensor | None = None,
    weights: Tensor | None = None,
    random_order: bool = False,
    random_subset: bool = False,
    event_probability: Callable[[int, bool], float] | None = None,
    **loop: Any,
) -> tuple[Tensor, Tensor, float]:
    """The canvases (N, L) in which a sampler ends, their probabilities, and the expected number of predictions.

    Args:
        until: do only the first so many of the steps.
        begin, weights: canvases (N, L) and probabilities to begin with; None: everything masked.
        random_order: the order ranks the positions by its numbers.
        random_subset: the reveal rule ranks them by its own.
        event_probability: (step, masked) → probability that the reveal rule's number at a position is below its bound.
        loop: arguments of `denoise`.
    """
    canvas = torch.full((1, bed.length), bed.mask) if begin is None else begin
    weight = torch.ones(len(canvas), dtype=torch.float64) / len(canvas) if weights is None else weights
    window = loop.get("blocks", [slice(0, bed.length)])[0]
    predictions = 0.0
    for index in range(steps if until is None else until):
        live = (canvas[:, window] == bed.mask).any(dim=1) | loop.get("every_step", False)
        merged: dict[tuple[int, ...], float] = defaultdict(float)
        for row, value in zip(map(tuple, canvas[~live].tolist()), weight[~live].tolist(), strict=True):
            merged[row] += value
        if live.any():
            predictions += float(weight[live].sum())
            chance = None if event_probability is None else partial(event_probability, index)
            after, p = _step(bed, predict, canvas[live], weight[live], index, steps, random_order, random_subset,
                             chance, loop)  # fmt: skip
            for row, value in zip(map(tuple, after.tolist()), p.tolist(), strict=True):
                merged[row] += value
        canvas = torch.tensor(list(merged))
        weight = torch.tensor(list(merged.values()), dtype=torch.float64)
    return canvas, weight, predictions


def _step(
    bed, predict, canvas, weights, index, steps, random_order, random_subset, chance, loop
) -> tuple[Tensor, Tensor]:
    """The outcomes of one step from canvases that are all live, and their probabilities."""
    L, V = bed.length, bed.vocab
    drafts = torch.tensor(list(itertools.product(range(V), repeat=L)))
    ranks = (torch.tensor(list(itertools.permutations(range(L))), dtype=torch.float64) + 1) / (L + 1)
    events = torch.tensor(list(itertools.product((False, True), repeat=L)))
    orders = ranks if random_order else None
    choices = events if chance else ranks if random_subset else None
    sizes = [len(canvas), len(drafts), 1 if orders is None else len(orders), 1 if choices is None else len(choices)]
    grid = torch.cartesian_prod(*(torch.arange(n) for n in sizes)).reshape(-1, 4)
    start, script = canvas[grid[:, 0]], drafts[grid[:, 1]]
    masked = start == bed.mask
    logits = predict(canvas)[grid[:, 0]]
    p = logits[..., :V].softmax(dim=-1).gather(-1, script[..., None])[..., 0]
    weight = weights[grid[:, 0]] * torch.where(masked, p, 1.0 / V).prod(dim=1)  # drafts elsewhere do not matter
    weight = weight / sizes[2] / (sizes[3] if random_subset else 1)
    numbers = None if choices is None else choices[grid[:, 3]]
    if chance:
        probability = torch.where(masked, chance(True), chance(False)).double()
        weight = weight * torch.where(numbers, probability, 1 - probability).prod(dim=1)
        numbers = torch.where(numbers, 1e-9, 1 - 1e-9).double()
    alive = weight > 0
    script, logits = script[alive], logits[alive]
    uniforms = Scripted(
        int(alive.sum()),
        None if orders is None else orders[grid[:, 2]][alive],
        None if numbers is None else numbers[alive],
    )
    given = {"blocks": [slice(0, L)]} | loop
    states = denoise(
        lambda c, block: logits[:, block],
        start[alive],
        bed.mask,
        steps=steps,
        first_step=index,
        draft=lambda logits, masked, uniforms: script[:, given["blocks"][0]],
        uniforms=uniforms,
        writable=torch.ones_like(start[alive], dtype=torch.bool),
        **given,
    )
    return next(states).canvas, weight[alive]


def law(bed, predict: Callable[[Tensor], Tensor], steps: int, **options: Any) -> tuple[Tensor, float]:
    """Probability of every sequence (V^L,), and the expected number of predictions; arguments as for `chain`."""
    canvas, weight, predictions = chain(bed, predict, steps, **options)
    assert not (canvas == bed.mask).any()
    return torch.zeros(bed.vocab**bed.length, dtype=torch.float64).index_add(0, bed.index(canvas), weight), predictions


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


def divergence(p: Tensor, q: Tensor) -> float:
    """Kullback-Leibler divergence in nats."""
    return float((p * (p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log())).sum())


def entropy(p: Tensor) -> float:
    return float(-(p * p.clamp(min=1e-300).log()).sum())
