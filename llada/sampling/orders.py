"""Orders: which position's draft is revealed first. A higher score goes first.

Every order has the signature `(Drafts) -> score (N,)`: one number for each of the N positions of a batch of windows at
which a token was drafted. With one token per step, every order that does not look at the drafted token samples a
perfect model exactly.

Shapes: B batch, W window, N drafted positions, V vocabulary.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from llada.sampling.predictors import forbid


@dataclass(frozen=True)
class Drafts:
    """Tokens proposed at N positions, and the predictions that they were taken from."""

    logits: Tensor  # (N, V) at temperature 1, impossible tokens at -inf
    token: Tensor  # (N,)
    place: Tensor  # (N,) in the window, from 0
    width: int  # W of the window
    uniforms: Tensor  # (N,) fresh random numbers in (0, 1)

    @cached_property
    def log_normaliser(self) -> Tensor:
        """(N,), what the logits miss log-probabilities by."""
        return self.logits.logsumexp(dim=-1)

    @cached_property
    def log_probability(self) -> Tensor:
        """Of the tokens at temperature 1, (N,) in nats."""
        return self.logits.gather(-1, self.token[:, None])[:, 0] - self.log_normaliser


Order = Callable[[Drafts], Tensor]


def confidence(drafts: Drafts) -> Tensor:
    """The probability of the drafted token: low-confidence remasking (LLaDA, arXiv:2502.09992, alg. 5).

    It looks at the drawn token, so at a temperature above 0 even a perfect model is not sampled exactly: rare draws
    are put back and drawn again. At temperature 0 it is `max_probability`.
    """
    return drafts.log_probability.exp()


def max_probability(drafts: Drafts) -> Tensor:
    """The probability of the likeliest token, whatever was drawn (arXiv:2502.06768, §4)."""
    return (drafts.logits.amax(dim=-1) - drafts.log_normaliser).exp()


def margin(drafts: Drafts) -> Tensor:
    """The likeliest token's probability less that of the second (arXiv:2502.06768, §4)."""
    two = (drafts.logits.topk(2, dim=-1).values - drafts.log_normaliser[:, None]).exp()
    return two[:, 0] - two[:, 1]


def entropy(drafts: Drafts) -> Tensor:
    """The negative entropy of the prediction, in nats (Dream, arXiv:2508.15487)."""
    return -entropy_of(drafts.logits)


def random(drafts: Drafts) -> Tensor:
    """A uniformly random order: random remasking (LLaDA, arXiv:2502.09992, alg. 4)."""
    return drafts.uniforms


def left_to_right(drafts: Drafts) -> Tensor:
    """The order of reading: an autoregressive model that also looks ahead at [MASK]."""
    return -drafts.place.double()


def permutation(positions: Sequence[int]) -> Order:
    """The window's positions in a given order, each named once."""
    if sorted(positions) != list(range(len(positions))):
        raise ValueError(f"positions={list(positions)} must name each of 0..{len(positions) - 1} once")

    def scored(drafts: Drafts) -> Tensor:
        if drafts.width != len(positions):
            raise ValueError(f"an order of {len(positions)} positions does not fit a window of {drafts.width}")
        return -torch.tensor(positions, device=drafts.place.device).argsort()[drafts.place].double()

    return scored


def position_calibrated(frequencies: Tensor, decay: float = 0.25, cap: float = 10.0) -> Order:
    """PC-Sampler (arXiv:2508.13021): log of `exp(-decay * position) * min(-p log f, cap)` of the drafted token.

    Early positions first, and among them tokens that are likely (p) but rare in general (f): the draft's probability
    times its information under the background distribution.

    Args:
        frequencies: (V,) counts or probabilities of the tokens in a background corpus; 0 counts as the rarest seen.
    """
    counts = frequencies.double()
    if counts.dim() != 1 or not (counts >= 0).all() or not 0 < counts.sum() < math.inf:
        raise ValueError("frequencies must be one finite number >= 0 per token, not all of them 0")
    information = -(counts.where(counts > 0, counts[counts > 0].min()) / counts.sum()).log()  # (V,)

    def scored(drafts: Drafts) -> Tensor:
        V = drafts.logits.shape[-1]
        if len(information) < V:
            raise ValueError(f"frequencies of {len(information)} tokens do not fit a vocabulary of {V}")
        surprise = confidence(drafts) * information.to(drafts.token.device)[drafts.token]
        return surprise.clamp(max=cap).log() - decay * drafts.place.double()  # the exponential would underflow

    return scored


def excluding(order: Order, tokens: list[int]) -> Order:
    """Score as if `tokens` could not be drafted, and put positions where one of them was drafted last.

    With the end-of-sequence tokens: LLaDA's `confidence_eos_eot_inf` (arXiv:2502.09992, appendix B.4), at every
    temperature.
    """

    def scored(drafts: Drafts) -> Tensor:
        score = order(replace(drafts, logits=forbid(drafts.logits, tokens)))
        ending = torch.isin(drafts.token, torch.tensor(tokens, device=drafts.token.device))
        return score.masked_fill(ending, -torch.inf)

    return scored


def entropy_of(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) over the last dimension, in nats."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0.0)).sum(dim=-1)


def read_frequencies(path: str | Path) -> Tensor:
    """Token counts from a JSON file that holds one number per token."""
    try:
        return torch.tensor(json.loads(Path(path).read_text(encoding="utf-8")), dtype=torch.float64)
    except (OSError, ValueError, TypeError, RuntimeError, OverflowError) as error:  # RecursionError is a RuntimeError
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
