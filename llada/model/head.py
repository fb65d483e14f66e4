"""Cross-entropy behind the LM head without its logits, which for a large vocabulary are most of a step's memory.

The loss is a weighted sum over positions, and the weights are known before. So a few positions at a time are projected,
compared with their targets and turned into their share of both gradients at once; their logits are then forgotten, and
nothing is computed twice.

Shapes: N positions, D hidden size, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 2**24  # logits that exist at once: 64 MiB in float32, more is not faster


class Losses(NamedTuple):
    """What is known of positions without their logits, in nats and float32 or wider."""

    total: Tensor  # sum_i weights_i CE_i, a scalar
    each: Tensor  # (N,) the cross-entropy CE, without a gradient
    confidences: Tensor | None  # (N,) the largest log-probability, without a gradient, where it was asked for


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    ignore_index: int = -100,
    confidences: bool = False,
) -> Losses:
    """The weighted cross-entropy of some positions; products are in autocast's precision where that is on.

    Args:
        hidden: (N, D).
        weight: (V, D), of the projection.
        targets: int64 (N,), `ignore_index` where CE is 0.
        weights: (N,), without a gradient.
        confidences: whether the largest log-probability of each position is wanted.
    """
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        low = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(low), weight.to(low)
    asked = targets != ignore_index
    targets, weights = targets.where(asked, 0), weights.where(asked, 0)
    gradients = torch.is_grad_enabled()
    total, losses, largest = _LinearCrossEntropy.apply(hidden, weight, targets, weights, gradients, confidences)
    return Losses(total, losses.where(asked, 0), largest)


def linear_cross_entropy_bytes(positions: int, hidden_size: int, vocabulary: int, *, half: bool = False) -> int:
    """Bytes that a forward and backward pass takes at most, beside what it is given and what it returns.

    `half`: products in bfloat16.
    """
    logits = min(positions, max(1, _CHUNK // vocabulary)) * vocabulary  # of a chunk
    of_weight = (4 + 2 * half) * vocabulary * hidden_size  # a chunk's share is rounded before it is added
    of_hidden = (2 if half else 4) * positions * hidden_size
    return logits * (12 if half else 8) + of_weight + of_hidden  # logsumexp has its terms beside the logits


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, gradients: bool, confidences: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        largest = torch.empty_like(losses) if confidences else None
        weights = weights.to(wide)
        d_hidden = torch.empty_like(hidden) if gradients and ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=wide) if gradients and ctx.needs_input_grad[1] else None
        size = max(1, _CHUNK // len(weight))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), size):
                chunk = slice(start, start + size)
                logits = (hidden[chunk] @ weight.T).to(wide)  # (n, V)
                normaliser = logits.logsumexp(dim=-1, keepdim=True)
                target = targets[chunk, None]
                losses[chunk] = (normaliser - logits.gather(-1, target))[:, 0]
                if largest is not None:
                    largest[chunk] = (logits.amax(dim=-1, keepdim=True) - normaliser)[:, 0]
                if d_hidden is None and d_weight is None:
                    continue
                # softmax less one-hot, weighted, in the memory of the logits
                slope = logits.sub_(normaliser).exp_().mul_(weights[chunk, None])
                slope = slope.scatter_add_(-1, target, -weights[chunk, None]).to(hidden.dtype)
                if d_hidden is not None:
                    torch.mm(slope, weight, out=d_hidden[chunk])
                if d_weight is not None:
                    if d_weight.dtype == slope.dtype:
                        d_weight.addmm_(slope.T, hidden[chunk])
                    else:
                        d_weight += slope.T @ hidden[chunk]
                del logits, slope  # before the next logits are there
        ctx.gradients = (d_hidden, d_weight)  # not saved as tensors, so that they can be scaled in place
        ctx.mark_non_differentiable(*(values for values in (losses, largest) if values is not None))
        return (losses * weights).sum(), losses, largest

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("this loss has had its backward pass; compute it again instead of retaining the graph")
        scaled, ctx.gradients = [None if d is None else d.mul_(gradients[0]) for d in ctx.gradients], None
        return (*scaled, None, None, None, None)
