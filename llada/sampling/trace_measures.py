"""What a trace tells of its run: how autoregressive it was, tokens per evaluation, confidence, and where two runs part.

Shapes: B batch, L length, S steps, N changes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llada.sampling.generate import until_end
from llada.sampling.trace import Kind, Trace


class Change(NamedTuple):
    """What a step did at one position."""

    kind: Kind
    token: int
    probability: float


class Parting(NamedTuple):
    """Where a row of two traces parts."""

    row: int
    step: int  # the first one after which the canvases differ, from 0
    changes: dict[int, tuple[Change | None, Change | None]]  # by position, what each did; None: nothing


def difference(one: Trace, other: Trace) -> list[Parting]:
    """Where each row of two runs from one canvas first differs; rows that are the same at all steps are left out.

    Only tokens are compared: not how likely they were, nor which steps changed nothing. Raises ValueError where the
    traces start from different canvases.
    """
    if one.mask_token_id != other.mask_token_id or not torch.equal(one.canvas, other.canvas):
        raise ValueError("the traces start from different canvases; only runs from the same one can be compared")
    ours, theirs = _by_place(one), _by_place(other)
    partings: dict[int, Parting] = {}
    for row, step in sorted(ours.keys() | theirs.keys()):
        if row in partings:
            continue
        a, b = ours.get((row, step), {}), theirs.get((row, step), {})
        both = {position: (a.get(position), b.get(position)) for position in sorted(a.keys() | b.keys())}
        differing = {p: (x, y) for p, (x, y) in both.items() if x is None or y is None or x.token != y.token}
        if differing:
            partings[row] = Parting(row, step, differing)
    return list(partings.values())


class Autoregressiveness(NamedTuple):
    """How much a decoding order is that of reading, each (B,) in 0..1; NaN where too few tokens were revealed."""

    local_at_k: Tensor  # reveals, from the (k+1)-th on, that end a run of k+1 consecutive positions, left to right
    global_at_k: Tensor  # reveals that are among the k leftmost masks of their time


def ar_ness(trace: Trace, k: int) -> Autoregressiveness:
    """Local and global autoregressiveness of each row's decoding order (DiffuCoder, arXiv:2506.20639).

    Tokens of one step count as revealed from left to right. A token that was masked again counts where it was revealed
    last. A mask that is filled in after a stop token is no reveal, but a mask until then.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    L = trace.canvas.shape[1]
    time = trace.last(Kind.REVEALED)  # (B, L), -1: never
    revealed = time >= 0
    n = revealed.sum(dim=1)  # (B,)
    until = time.masked_fill(~revealed & (trace.canvas == trace.mask_token_id), len(trace.step))  # mask to the end
    masks_before = torch.zeros_like(time)
    for position in range(1, L):  # not all pairs at once, which take B L^2 bytes
        masks_before[:, position] = (until[:, :position] > until[:, position : position + 1]).sum(dim=1)
    leftmost = (revealed & (masks_before < k)).sum(dim=1)

    order = time.masked_fill(~revealed, len(trace.step)).argsort(dim=1, stable=True)  # (B, L), the first n of each row
    place = torch.arange(L)
    continues = order.diff(dim=1, prepend=order[:, :1] - 2) == 1
    run = place - torch.where(continues, 0, place).cummax(dim=1).values  # positions in a row before this one
    local = ((run >= k) & (place < n[:, None])).sum(dim=1)
    return Autoregressiveness(local / (n - k).clamp(min=0), leftmost / n)


def tokens_per_forward(trace: Trace, *, eos_token_id: int | None = None, evaluations: int = 1) -> Tensor:
    """Generated tokens per network evaluation, (B,), as `Generation.tokens_per_forward`; 0 for rows without any.

    Args:
        eos_token_id: only tokens up to and with the first of these count; None: all that were predicted.
        evaluations: of the network in a step; 2 with guidance.
    """
    generated = (trace.last(Kind.REVEALED) >= 0) & (trace.last(Kind.FILLED) < 0)
    generated &= trace.canvas == trace.mask_token_id
    tokens = until_end(trace.final, generated, eos_token_id).sum(dim=1)
    return tokens / (evaluations * trace.active.sum(dim=0)).clamp(min=1)


class Confidence(NamedTuple):
    """Of a row's revealed tokens, each (B,); NaN where there are none."""

    mean: Tensor
    variance: Tensor  # of these tokens, not an estimate from them: divided by n


def confidence_of_reveals(trace: Trace) -> Confidence:
    """Mean and variance of the probabilities with which tokens were revealed (arXiv:2606.00997).

    At temperature 1, whatever the temperature of the drafts. Of a token that was masked again the last time counts.
    To be read beside `ar_ness` (DiffuCoder, arXiv:2506.20639), as the order changes it.
    """
    last = trace.last(Kind.REVEALED)
    revealed = last >= 0
    p = torch.zeros(last.shape, dtype=torch.float64).masked_scatter(revealed, trace.probability[last[revealed]])
    n = revealed.sum(dim=1)
    mean = p.sum(dim=1) / n
    squares = ((p - mean[:, None]) ** 2).masked_fill(~revealed, 0.0)
    return Confidence(mean, squares.sum(dim=1) / n)


def _by_place(trace: Trace) -> dict[tuple[int, int], dict[int, Change]]:
    """The changes by (row, step), and there by position."""
    places: dict[tuple[int, int], dict[int, Change]] = {}
    columns = (trace.row, trace.step, trace.position, trace.kind, trace.token, trace.probability)
    for row, step, position, kind, token, probability in zip(*(c.tolist() for c in columns), strict=True):
        places.setdefault((row, step), {})[position] = Change(Kind(kind), token, probability)
    return places
