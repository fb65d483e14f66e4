"""Orders: which position's draft is revealed first. A higher score goes first.

Every order has the signature `(logits (B, W, V), draft (B, W), uniforms (B, W)) -> score (B, W)`. Logits are those of
the prediction at temperature 1 with impossible tokens at -inf; the uniforms are fresh random numbers in (0, 1).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Order = Callable[[Tensor, Tensor, Tensor], Tensor]


def confidence(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """The probability of the drafted token: low-confidence remasking (LLaDA, arXiv:2502.09992, alg. 5).

    It looks at the drawn token, so at a temperature above 0 even a perfect model is not sampled exactly: rare draws
    are put back and drawn again.
    """
    drafted = logits.gather(-1, draft[..., None])[..., 0]
    return (drafted - logits.logsumexp(dim=-1)).exp()


def random(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
    """A uniformly random order: random remasking (LLaDA, arXiv:2502.09992, alg. 4). Exact with one token per step."""
    return uniforms


def excluding(order: Order, tokens: list[int]) -> Order:
    """Score as if `tokens` could not be drafted, and put positions where one of them was drafted last.

    With the end-of-sequence tokens: LLaDA's `confidence_eos_eot_inf` (arXiv:2502.09992, appendix B.4), at every
    temperature.
    """

    def scored(logits: Tensor, draft: Tensor, uniforms: Tensor) -> Tensor:
        ids = torch.tensor(tokens, device=logits.device)
        score = order(logits.index_fill(-1, ids, -torch.inf), draft, uniforms)
        return score.masked_fill(torch.isin(draft, ids), -torch.inf)

    return scored


ORDERS: dict[str, Order] = {"confidence": confidence, "random": random}
