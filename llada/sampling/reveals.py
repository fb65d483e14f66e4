"""Reveal rules: which positions of the window are visible after a step. What a rule leaves out is [MASK] afterwards."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What a reveal rule knows about one step."""

    logits: Tensor  # (B, W, V) of the prediction, impossible tokens at -inf
    draft: Tensor  # (B, W) the token proposed at each position; the present one where visible
    score: Tensor  # (B, W) of the order, higher first
    masked: Tensor  # (B, W) bool, [MASK] before the step
    count: Tensor  # (B,) tokens that the schedule reveals in this step


Reveal = Callable[[Step], Tensor]


def top_k(step: Step) -> Tensor:
    """Reveal the `count` masked positions of highest score; ties go to the leftmost."""
    finite = step.score.clamp(min=torch.finfo(step.score.dtype).min)
    ranked = finite.masked_fill(~step.masked, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(ranked.shape[1], device=ranked.device).expand_as(ranked)
    rank = torch.empty_like(ranked).scatter_(1, ranked, places)
    return ~step.masked | (rank < step.count[:, None])


REVEALS: dict[str, Reveal] = {"top_k": top_k}
