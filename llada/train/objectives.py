"""What training asks of the model: an objective turns clean rows into one call of the model and the loss of its logits.

An objective is a function from rows and their random numbers to a `Call`, so that everything random is decided where
the batch is made, and the loop is the same for all of them. `OBJECTIVES` names them; those that are likelihood bounds
also measure held-out rows.

Shapes: B rows, L length, V vocabulary, N logits that are asked for, K groups of a row with a weight each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llada.train.objective import Noised, floored, forward_process

IGNORED = -100  # a target that nothing is asked about; what F.cross_entropy leaves out by default


@dataclass(frozen=True)
class Noise:
    """How training masks, from the config."""

    mask_token_id: int
    pad_token_id: int
    seed: int = 0
    masking: Literal["count", "bernoulli"] = "count"  # exactly k ~ U{1..L} tokens, or each with probability t ~ U(0, 1)
    eps: float = 1e-3  # floor of t; only for "bernoulli"
    random_length: float = 0.0  # probability of cutting a row to a uniform length
    bos_token_id: int | None = None  # precedes a row whose first token is to be predicted; only for `autoregressive`
    eos_padding: bool = True  # responses go on with padding to the longest row of the step; False: with one EOS


class Padded(NamedTuple):
    """Clean rows as a rectangle, and the numbers that decide their masks."""

    x0: Tensor  # (B, L)
    maskable: Tensor  # (B, L) bool, what the loss is about
    real: Tensor  # (B, L) bool; what is not is hidden from the model
    t: Tensor  # (B,) in [0, 1), stratified over the global batch
    uniforms: Tensor  # (B, L) in [0, 1)


class Call(NamedTuple):
    """One call of the model, and what its logits are compared with."""

    inputs: Mapping[str, Any]  # arguments of the call
    targets: Tensor  # (N,) tokens for the logits, flattened to (N, V); IGNORED where nothing is asked
    group: Tensor  # (N,) which of the B * K groups, row by row, the cross-entropy is added to
    weights: Tensor  # (B, K) of the groups; the loss of a row is the sum of its weighted groups


class Objective(NamedTuple):
    """A way to train."""

    ask: Callable[[Padded, Noise], Call]
    is_bound: bool  # whether the mean loss of a row is at least its -log p(x0)
    reads: int = 1  # times the network reads a token of a row
    asks: float = 0.5  # share of what it reads that logits are needed for


def group_sums(logits: Tensor, call: Call) -> Tensor:
    """The cross-entropy of every group, (B, K), in nats, float32 or wider. Logits are (N, V) or flatten to that."""
    logits = logits.flatten(0, -2)
    wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    losses = F.cross_entropy(wide, call.targets, ignore_index=IGNORED, reduction="none")  # (N,)
    return losses.new_zeros(call.weights.numel()).index_add(0, call.group, losses).view(call.weights.shape)


def row_losses(logits: Tensor, call: Call) -> Tensor:
    """The loss of each row, (B,), in nats."""
    sums = group_sums(logits, call)
    return (sums * call.weights.to(sums.dtype)).sum(dim=1)


def masked(padded: Padded, noise: Noise) -> Noised:
    """The rows as the configuration masks them."""
    if noise.masking == "count":
        available = padded.maskable.sum(dim=1)
        counts = (1 + (available * padded.t).long()).clamp(max=available)
        return forward_process(
            padded.x0, noise.mask_token_id, maskable=padded.maskable, counts=counts, uniforms=padded.uniforms
        )
    t = floored(padded.t, noise.eps)
    return forward_process(padded.x0, noise.mask_token_id, t, padded.maskable, uniforms=padded.uniforms)


def elbo(padded: Padded, noise: Noise) -> Call:
    """The negative ELBO (arXiv:2502.09992, eq. 3): masked cross-entropy with weight 1/t."""
    noised = masked(padded, noise)
    return _at_masks(padded, noised, 1 / noised.t[:, None])


def autoregressive(padded: Padded, noise: Noise) -> Call:
    """The negative log-likelihood, token after token from the left; for a causal model, which has no masks.

    A first token that counts is predicted from `bos_token_id` alone, so that the loss is -log p of the whole row, over
    as many tokens as the bound. A conversation begins with a token that does not count, so nothing is put before it.
    Padding is on the right, where a causal model cannot see it.
    """
    inputs, targets, counted = padded.x0[:, :-1], padded.x0[:, 1:], padded.maskable[:, 1:]
    if padded.maskable[:, 0].any():
        if noise.bos_token_id is None:
            raise ValueError("the first token of a row counts, but there is no bos_token_id to predict it from")
        first = torch.full_like(padded.x0[:, :1], noise.bos_token_id)
        inputs, targets, counted = torch.cat((first, inputs), dim=1), padded.x0, padded.maskable
    columns = counted.any(dim=0).nonzero()[:, 0]  # (C,)
    B = len(inputs)
    return Call(
        inputs={"input_ids": inputs, "logits_to_keep": columns, "use_cache": False},
        targets=torch.where(counted, targets, IGNORED)[:, columns].flatten(),
        group=torch.arange(B).repeat_interleave(len(columns)),
        weights=torch.ones(B, 1),
    )


def _at_masks(padded: Padded, noised: Noised, weights: Tensor) -> Call:
    """Ask a mask predictor for the masked tokens; one group a row."""
    where = noised.masked.flatten().nonzero()[:, 0]
    return Call(
        inputs={"input_ids": noised.xt, "attention_mask": _attention_mask(padded.real), "logits_at": where},
        targets=padded.x0.flatten()[where],
        group=where // padded.x0.shape[1],
        weights=weights,
    )


def _attention_mask(real: Tensor) -> Tensor | None:
    return None if real.all() else real.long()


ELBO = Objective(elbo, is_bound=True)
OBJECTIVES: dict[str, Objective] = {
    "elbo": ELBO,
    "autoregressive": Objective(autoregressive, is_bound=True, asks=1.0),
}
