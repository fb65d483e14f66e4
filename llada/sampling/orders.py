"""Orders: which position's draft is revealed first. A higher score goes first.

Every order has the signature `(logits (B, W, V), draft (B, W), uniforms (B, W)) -> score (B, W)`. Logits are those of
the prediction at temperature 1 with impossible tokens at -inf; the uniforms are fresh random numbers in (0, 1). With
one token per step, every order that does not look at the draft samples a perfect model exactly.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from llada.sampling.predictors import forbid

Order = Callable[[Tensor, Tensor, Tensor], Tensor]


def confidence(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """The probability of the drafted token: low-confidence remasking (LLaDA, arXiv:2502.09992, alg. 5).

    It looks at the drawn token, so at a temperature above 0 even a perfect model is not sampled exactly: rare draws
    are put back and drawn again. At temperature 0 it is `max_probability`.
    """
    drafted = logits.gather(-1, draft[..., None])[..., 0]
    return (drafted - logits.logsumexp(dim=-1)).exp()


def max_probability(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """The probability of the likeliest token, whatever was drawn (arXiv:2502.06768, §4)."""
    return (logits.amax(dim=-1) - logits.logsumexp(dim=-1)).exp()


def margin(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """The likeliest token's probability less that of the second (arXiv:2502.06768, §4)."""
    two = (logits.topk(2, dim=-1).values - logits.logsumexp(dim=-1, keepdim=True)).exp()
    return two[..., 0] - two[..., 1]


def entropy(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """The negative entropy of the prediction, in nats (Dream, arXiv:2508.15487)."""
    return -entropy_of(logits)


def random(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """A uniformly random order: random remasking (LLaDA, arXiv:2502.09992, alg. 4)."""
    return uniforms


def left_to_right(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """The order of reading: an autoregressive model that also looks ahead at [MASK]."""
    return permutation(range(draft.shape[1]))(logits, draft, uniforms)


def permutation(positions: Sequence[int]) -> Order:
    """The window's positions in a given order, each named once."""
    if sorted(positions) != list(range(len(positions))):
        raise ValueError(f"positions={list(positions)} must name each of 0..{len(positions) - 1} once")

    def scored(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
        if draft.shape[1] != len(positions):
            raise ValueError(f"an order of {len(positions)} positions does not fit a window of {draft.shape[1]}")
        score = torch.empty(len(positions), dtype=torch.float64, device=logits.device)
        score[torch.tensor(positions, device=logits.device)] = -torch.arange(len(positions)).to(score)
        return score.expand(draft.shape)

    return scored


def position_calibrated(frequencies: Tensor, decay: float = 0.25, cap: float = 10.0) -> Order:
    """PC-Sampler (arXiv:2508.13021): `exp(-decay * position) * min(-p log f, cap)` of the drafted token.

    Early positions first, and among them tokens that are likely (p) but rare in general (f): the draft's probability
    times its information under the background distribution.

    Args:
        frequencies: (V,) counts or probabilities of the tokens in a background corpus; 0 counts as the rarest seen.
    """
    counts = frequencies.double()
    if counts.dim() != 1 or not (counts >= 0).all() or counts.sum() <= 0:
        raise ValueError("frequencies must be one number >= 0 per token, not all of them 0")
    information = -(counts.where(counts > 0, counts[counts > 0].min()) / counts.sum()).log()  # (V,)

    def scored(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
        if logits.shape[-1] > len(information):
            raise ValueError(f"frequencies of {len(information)} tokens do not fit a vocabulary of {logits.shape[-1]}")
        # in float32 all positions beyond some 400 would have the same score, 0
        position = torch.arange(draft.shape[1], device=draft.device, dtype=torch.float64)
        surprise = confidence(logits, draft, uniforms) * information.to(draft.device)[draft]
        return (-decay * position).exp() * surprise.clamp(max=cap)

    return scored


def excluding(order: Order, tokens: list[int]) -> Order:
    """Score as if `tokens` could not be drafted, and put positions where one of them was drafted last.

    With the end-of-sequence tokens: LLaDA's `confidence_eos_eot_inf` (arXiv:2502.09992, appendix B.4), at every
    temperature.
    """

    def scored(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
        score = order(forbid(logits, tokens), draft, uniforms)
        return score.masked_fill(torch.isin(draft, torch.tensor(tokens, device=draft.device)), -torch.inf)

    return scored


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) over the last dimension, in nats."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0.0)).sum(dim=-1)


def read_frequencies(path: str | Path) -> Tensor:
    """Token counts from a JSON file that holds one number per token."""
    try:
        return torch.tensor(json.loads(Path(path).read_text(encoding="utf-8")), dtype=torch.float64)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"background={str(path)!r} must be a JSON list of one count per token: {error}") from None


class OrderEntry(NamedTuple):
    """An order of the configuration: what makes it, and which fields it takes."""

    make: Callable[..., Order]
    fields: Mapping[str, str] = {}  # of the configuration, and what `make` calls them
    required: tuple[str, ...] = ()
    probability: bool = False  # its scores are probabilities
    drawn: bool = False  # looks at the token that was drawn


ORDERS: dict[str, OrderEntry] = {
    "confidence": OrderEntry(lambda: confidence, probability=True, drawn=True),
    "max_probability": OrderEntry(lambda: max_probability, probability=True),
    "margin": OrderEntry(lambda: margin, probability=True),
    "entropy": OrderEntry(lambda: entropy),
    "random": OrderEntry(lambda: random),
    "left_to_right": OrderEntry(lambda: left_to_right),
    "position_calibrated": OrderEntry(
        lambda background, **options: position_calibrated(read_frequencies(background), **options),
        {"background": "background", "position_decay": "decay"},
        ("background",),
        drawn=True,
    ),
}
