"""The exact output law of a sampler, by enumeration: no Monte Carlo is involved.

The loop is a Markov chain over canvases; where the reveal rule looks at `Step.held`, over canvases together with the
probabilities that their tokens had when they were revealed. One real step of `denoise` is run, in one batch, for every
state that can occur, every draft, and every outcome of its other random choices (an order, or which independent events
happen), each with its probability; equal states are then merged.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llada.sampling.denoise import denoise
from llada.sampling.reveals import Rule, Step, top_k

EDGE = 1e-9  # an event is tried with numbers this near to its bound, on both sides

Chance = Callable[[int, Tensor, Tensor], Tensor]


class States(NamedTuple):
    """What a sampler can have come to, N states, and how."""

    canvas: Tensor  # (N, L)
    held: Tensor  # (N, L) what the loop remembers of them; 1 where the rule does not look at it
    weight: Tensor  # (N,) their probabilities
    origin: Tensor  # (N, L) the canvas from which the loop is run
    script: Tensor  # (N, steps, streams, L) numbers that lead from there to here: of several ways, one

    def of_rows(self, rows: Tensor) -> "States":
        return States(*(part[rows] for part in self))

    def merged(self) -> "States":
        same, which = torch.cat((self.canvas.double(), self.held), dim=1).unique(dim=0, return_inverse=True)
        one = torch.zeros(len(same), dtype=torch.long).scatter(0, which, torch.arange(len(which)))
        weight = torch.zeros(len(same), dtype=torch.float64).index_add(0, which, self.weight)
        return self.of_rows(one)._replace(weight=weight)


class Scripted:
    """Numbers for the loop that are written down beforehand, (rows, steps, streams, L); 0.5 when they are used up."""

    def __init__(self, script: Tensor, first_step: int):
        self.script, self.first_step = script, first_step

    def __call__(self, block: slice, step: int, stream: int) -> Tensor:
        done = step - self.first_step
        if done == self.script.shape[1]:
            return torch.full_like(self.script[:, 0, 0, block], 0.5)
        return self.script[:, done, stream, block]


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
    event_probability: Chance | None = None,
    remembers: bool = False,
    **loop: Any,
) -> tuple[Tensor, Tensor, float]:
    """The canvases (N, L) in which a sampler ends, their probabilities, and the expected number of predictions.

    A canvas may be there several times.

    Args:
        until: do only the first so many of the steps.
        begin, weights: canvases (N, L) and probabilities to begin with; None: everything masked.
        random_order: the order ranks the positions by its numbers.
        random_subset: the reveal rule ranks them by its own.
        event_probability: (step, masked (B, L), held (B, L)) → (B, L), the bounds below which the reveal rule's numbers
            make something happen. It is tried right below and right above them, so that a wrong bound shows.
        remembers: the reveal rule looks at `Step.held`. Every step is then run from the beginning, so that what the
            rule is shown is what the loop remembers.
        loop: arguments of `denoise`.
    """
    canvas = torch.full((1, bed.length), bed.mask) if begin is None else begin
    weight = torch.ones(len(canvas), dtype=torch.float64) / len(canvas) if weights is None else weights
    held = torch.ones(canvas.shape, dtype=torch.float64)
    states = States(canvas, held, weight, canvas, torch.empty(len(canvas), 0, 3, bed.length, dtype=torch.float64))
    window = loop.get("blocks", [slice(0, bed.length)])[0]
    logits = _table(bed, predict)
    ended, predictions = [], 0.0
    for index in range(steps if until is None else until):
        live = (states.canvas[:, window] == bed.mask).any(dim=1) | _rule(loop).every_step
        ended.append(states.of_rows(~live))
        if not live.any():
            break
        predictions += float(states.weight[live].sum())
        chance = None if event_probability is None else partial(event_probability, index)
        tried = branches(bed, logits, states.of_rows(live), random_order, random_subset, chance)
        states = after(bed, logits, tried, index, steps, remembers, loop).merged()
    else:
        ended.append(states)
    return torch.cat([one.canvas for one in ended]), torch.cat([one.weight for one in ended]), predictions


def branches(
    bed,
    logits: Callable[[Tensor], Tensor],
    states: States,
    random_order: bool,
    random_subset: bool,
    chance: Callable[[Tensor, Tensor], Tensor] | None,
) -> States:
    """All that one step can draw: the states as they are, with the numbers of the step added to their scripts."""
    L, V = bed.length, bed.vocab
    drafts = torch.tensor(list(itertools.product(range(V), repeat=L)))
    ranks = (torch.tensor(list(itertools.permutations(range(L))), dtype=torch.float64) + 1) / (L + 1)
    events = torch.tensor(list(itertools.product((False, True), repeat=L)))
    none = torch.full((1, L), 0.5, dtype=torch.float64)
    choices = [drafts, ranks if random_order else none, events if chance else ranks if random_subset else none]
    bounds = chance(states.canvas == bed.mask, states.held) if chance else none  # float64: float32 would miss by EDGE
    row, *chosen = torch.cartesian_prod(*(torch.arange(len(one)) for one in (states.canvas, *choices))).unbind(dim=1)
    draft, order, number = (one[which] for one, which in zip(choices, chosen, strict=True))
    states = states.of_rows(row)
    masked = states.canvas == bed.mask
    p = logits(states.canvas)[..., :V].softmax(dim=-1).gather(-1, draft[..., None])[..., 0]
    weight = states.weight * torch.where(masked, p, (draft == 0).double()).prod(dim=1)  # elsewhere one stands for all
    weight = weight / len(choices[1])
    if chance:
        bound = bounds[row]
        weight = weight * torch.where(number, bound, 1 - bound).prod(dim=1)
        number = torch.where(number, bound * (1 - EDGE), bound + (1 - bound) * EDGE)
    else:
        weight = weight / len(choices[2])
    numbers = torch.stack((draft.double(), order, number), dim=1)[:, None]  # in the order of the loop's streams
    return states._replace(weight=weight, script=torch.cat((states.script, numbers), dim=1)).of_rows(weight > 0)


def after(
    bed,
    logits: Callable[[Tensor], Tensor],
    tried: States,
    index: int,
    steps: int,
    remembers: bool,
    loop: dict[str, Any],
) -> States:
    """Where the loop's step `index` leads, and what is remembered then."""
    rule, seen = _rule(loop), list[Step]()

    def watched(step: Step) -> Tensor:
        seen.append(step)
        return rule(step)

    given = {"blocks": [slice(0, bed.length)]} | loop | {"reveal": replace(rule, visible=watched)}
    many = tried.script.shape[1]
    states = denoise(
        lambda canvas, block: logits(canvas)[:, block],
        tried.origin,
        bed.mask,
        steps=steps,
        first_step=index + 1 - many,
        draft=lambda logits, uniforms: uniforms.long(),  # the script says which tokens
        uniforms=Scripted(tried.script, index + 1 - many),
        writable=torch.ones_like(tried.origin, dtype=torch.bool),
        **given,
    )
    canvas = next(itertools.islice(states, many - 1, None)).canvas
    held = torch.ones_like(tried.held)
    if not remembers:
        return States(canvas, held, tried.weight, canvas, tried.script[:, :0])
    if next(states, None) is not None:  # in its next step the loop says what it remembers
        held[:, seen[-1].block] = seen[-1].held
    return tried._replace(canvas=canvas, held=held)


def _rule(loop: dict[str, Any]) -> Rule:
    """What reveals, with what it asks of the loop."""
    reveal = loop.get("reveal", top_k)
    return reveal if isinstance(reveal, Rule) else Rule(reveal)


def _table(bed, predict: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same predictor, computed once for every canvas there is."""
    tokens = bed.vocab + 1
    predictions = predict(torch.tensor(list(itertools.product(range(tokens), repeat=bed.length))))
    powers = tokens ** torch.arange(bed.length - 1, -1, -1)
    return lambda canvas: predictions[(canvas * powers).sum(dim=-1)]


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
