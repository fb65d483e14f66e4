"""Drafts: one token per position from its predicted distribution, exactly.

A draft has the signature `(logits (N, V), uniforms (N,)) -> tokens (N,)`.

Shapes: N positions of a batch of windows, V vocabulary.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from llada.sampling.orders import Drafts, max_probability

Draft = Callable[[Tensor, Tensor], Tensor]

_CHUNK = 2**20  # numbers of float64 held at once while drawing: 8 MiB, more is not faster


def greedy(logits: Tensor, uniforms: Tensor) -> Tensor:
    """The likeliest tokens: temperature 0."""
    return logits.argmax(dim=-1)


def categorical(temperature: float, *, top_k: int | None = None, top_p: float | None = None) -> Draft:
    """Draw from softmax(logits / temperature) by inverting the float64 distribution function.

    One 53-bit number per position decides. The usual Gumbel trick in lower precision truncates the noise and so
    lowers the temperature (arXiv:2409.02908). With `top_k` only the so many likeliest tokens are drawn, with `top_p`
    only the fewest that together have at least that probability (arXiv:1904.09751).
    """
    return lambda logits, uniforms: inverse_cdf(logits, uniforms, temperature, top_k=top_k, top_p=top_p)


def truncated(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Logits (N, V) with the unlikely tokens at -inf; of equal ones at the border the lowest ids stay."""
    if top_k is None and top_p is None:
        return logits
    ranked, ids = logits.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if top_k is not None:
        keep[:, top_k:] = False
    if top_p is not None and top_p < 1:  # the sum may reach 1 by rounding before the last token
        p = tempered(ranked, temperature).masked_fill(~keep, -torch.inf).softmax(dim=-1)
        keep &= p.cumsum(dim=-1) - p < top_p  # so much before a token: it is still needed
    return torch.empty_like(logits).scatter_(-1, ids, ranked.masked_fill(~keep, -torch.inf))


def inverse_cdf(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float = 1.0,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """The token at which the distribution function of softmax(logits / temperature) passes the given number.

    Args:
        logits: (N, V), at least one of each row finite.
        uniforms: float64 (N,) in (0, 1).
        top_k, top_p: see `categorical`.
    """
    rows = max(1, _CHUNK // logits.shape[-1])
    drawn = []
    for some_logits, some_uniforms in zip(logits.split(rows), uniforms.split(rows), strict=True):
        allowed = truncated(some_logits, temperature, top_k, top_p)
        passed = tempered(allowed, temperature).exp_().cumsum(dim=-1)  # (rows, V), up to the normaliser
        target = some_uniforms[:, None] * passed[:, -1:]
        drawn.append(torch.searchsorted(passed, target, right=True)[:, 0])
    return torch.cat(drawn) if drawn else torch.zeros(0, dtype=torch.long, device=logits.device)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits (N, V) / temperature in float64, up to a constant of each row: the likeliest token is at 0.

    So no temperature makes it overflow; the least ones count as the smallest number that has a reciprocal.
    """
    return (logits - logits.amax(dim=-1, keepdim=True)).double() / max(temperature, sys.float_info.min)


def draft_at(temperature: float, *, top_k: int | None = None, top_p: float | None = None) -> Draft:
    """`greedy` at temperature 0, `categorical` above."""
    return greedy if temperature == 0 else categorical(temperature, top_k=top_k, top_p=top_p)


@dataclass(frozen=True)
class Edit:
    """What replaces revealed tokens, and for how long."""

    replaced: Callable[[Drafts], Tensor]  # tokens (N,), given the present ones as drafts of the new prediction
    extra_steps: int  # predictions for edits alone, once nothing is masked; they end when nothing changes


def replacing(threshold: float, extra_steps: int = 16) -> Edit:
    """Editing of revealed tokens (LLaDA2.1, arXiv:2602.08676, token-to-token).

    Writes the likeliest token wherever it is another one and has a probability above the threshold. Two tokens that
    are replaced at once can swap for ever, so the predictions that are spent on edits alone have a cap.
    """

    def replaced(present: Drafts) -> Tensor:
        return torch.where(max_probability(present) > threshold, present.logits.argmax(dim=-1), present.token)

    return Edit(replaced, extra_steps)
