"""Drafts: one token per position from its predicted distribution, exactly.

Shapes: B batch, W window, V vocabulary, N drawn positions.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from llada.sampling.orders import confidence

Draft = Callable[[Tensor, Tensor, Tensor], Tensor]
Edit = Callable[[Tensor, Tensor, Tensor], Tensor]

_CHUNK = 2**23  # numbers of float64 held at once while drawing: 64 MiB


def greedy(logits: Tensor, masked: Tensor, uniforms: Tensor) -> Tensor:
    """The likeliest token everywhere, (B, W): temperature 0."""
    return logits.argmax(dim=-1)


def categorical(temperature: float, *, top_k: int | None = None, top_p: float | None = None) -> Draft:
    """Draw from softmax(logits / temperature) at masked positions, by inverting the float64 distribution function.

    One 53-bit number per position decides. The usual Gumbel trick in lower precision truncates the noise and so
    lowers the temperature (arXiv:2409.02908). Visible positions get token 0. With `top_k` only the so many likeliest
    tokens are drawn, with `top_p` only the fewest that together have at least that probability (arXiv:1904.09751).
    """

    def draw(logits: Tensor, masked: Tensor, uniforms: Tensor) -> Tensor:
        draft = torch.zeros_like(masked, dtype=torch.long)
        allowed = truncated(logits[masked], temperature, top_k, top_p)
        draft[masked] = inverse_cdf(allowed, uniforms[masked], temperature)
        return draft

    return draw


def truncated(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Logits (N, V) with the unlikely tokens at -inf; of equal ones at the border the lowest ids stay."""
    if top_k is None and top_p is None:
        return logits
    ranked, ids = logits.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if top_k is not None:
        keep[:, top_k:] = False
    if top_p is not None and top_p < 1:  # the sum may reach 1 by rounding before the last token
        p = (ranked.double() / temperature).masked_fill(~keep, -torch.inf).softmax(dim=-1)
        keep &= p.cumsum(dim=-1) - p < top_p  # so much before a token: it is still needed
    return torch.empty_like(logits).scatter_(-1, ids, ranked.masked_fill(~keep, -torch.inf))


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


def draft_at(temperature: float, *, top_k: int | None = None, top_p: float | None = None) -> Draft:
    """`greedy` at temperature 0, `categorical` above."""
    return greedy if temperature == 0 else categorical(temperature, top_k=top_k, top_p=top_p)


def replacing(threshold: float) -> Edit:
    """Editing of revealed tokens (LLaDA2.1, arXiv:2602.08676, token-to-token).

    An edit has the signature `(logits (B, W, V), tokens (B, W), writable (B, W)) -> tokens (B, W)`. This one writes
    the likeliest token wherever it is another one and has a probability above the threshold. Two tokens that are
    replaced at once can swap for ever, so the loop caps the predictions it spends on edits alone.
    """

    def edited(logits: Tensor, tokens: Tensor, writable: Tensor) -> Tensor:
        likeliest = logits.argmax(dim=-1)
        sure = confidence(logits, likeliest, torch.empty(0)) > threshold
        return torch.where(writable & sure, likeliest, tokens)

    return edited
