"""Drafts: one token per position from its predicted distribution, exactly.

Shapes: B batch, W window, V vocabulary, N drawn positions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Draft = Callable[[Tensor, Tensor, Tensor], Tensor]

_CHUNK = 2**23  # numbers of float64 held at once while drawing: 64 MiB


def greedy(logits: Tensor, masked: Tensor, uniforms: Tensor) -> Tensor:
    """The likeliest token everywhere, (B, W): temperature 0."""
    return logits.argmax(dim=-1)


def categorical(temperature: float) -> Draft:
    """Draw from softmax(logits / temperature) at masked positions, by inverting the float64 distribution function.

    One 53-bit number per position decides. The usual Gumbel trick in lower precision truncates the noise and so
    lowers the temperature (arXiv:2409.02908). Visible positions get token 0.
    """

    def draw(logits: Tensor, masked: Tensor, uniforms: Tensor) -> Tensor:
        draft = torch.zeros_like(masked, dtype=torch.long)
        draft[masked] = inverse_cdf(logits[masked], uniforms[masked], temperature)
        return draft

    return draw


def inverse_cdf(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """The token at which the distribution function of softmax(logits / temperature) passes the given number.

    Args:
        logits: (N, V), at least one of each row finite.
        uniforms: float64 (N,) in (0, 1).
    """
    rows = max(1, _CHUNK // logits.shape[-1])
    drawn = []
    for some_logits, some_uniforms in zip(logits.split(rows), uniforms.split(rows), strict=True):
        passed = (some_logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)  # (rows, V)
        target = some_uniforms[:, None] * passed[:, -1:]  # the sum may miss 1 by rounding
        drawn.append(torch.searchsorted(passed, target, right=True)[:, 0])
    return torch.cat(drawn) if drawn else torch.zeros(0, dtype=torch.long, device=logits.device)


def draft_at(temperature: float) -> Draft:
    """`greedy` at temperature 0, `categorical` above."""
    return greedy if temperature == 0 else categorical(temperature)
