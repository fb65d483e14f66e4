"""Every mask of a row, with its probability and its loss."""

import itertools

import torch
from bed import BED, STAR, Bed
from torch import Tensor

from llada.train.objectives import (
    OBJECTIVES,
    Call,
    Noise,
    Padded,
    cross_entropy,
    group_sums,
    weighted,
)

# those that draw their masks; test_puma.py has the other one
MASKED = [name for name, objective in OBJECTIVES.items() if objective.masks and name != "puma"]


def bed_noise(bed: Bed = BED, **changes) -> Noise:
    return Noise(bed.mask, bed.mask, **changes)


def everything(x: Tensor, grid: int) -> Padded:
    """A row with each of `grid` times and each order of its positions, so that all sets of a size are equally often."""
    L = len(x)
    orders = torch.tensor(list(itertools.permutations(range(L))))  # (L!, L)
    t = ((torch.arange(grid) + 0.5) / grid).repeat_interleave(len(orders))
    shape = (len(t), L)
    return Padded(
        x0=x.expand(shape),
        maskable=torch.ones(shape, dtype=torch.bool),
        real=torch.ones(shape, dtype=torch.bool),
        t=t,
        uniforms=(orders.repeat(grid, 1) + 0.5) / L,
    )


def predicted(bed: Bed, predictor: str, call: Call, noise: Noise) -> Tensor:
    """The logits that the bed's predictor gives to a call, (N, V)."""
    canvas, at = call.inputs["input_ids"], call.inputs["logits_at"]
    function = getattr(bed, predictor)
    if "position_ids" not in call.inputs:
        return function(canvas).flatten(0, 1)[at][:, : bed.vocab]
    L, W = canvas.shape[1] // 2, noise.block_length
    xt, x0 = canvas[:, :L], canvas[:, L:]
    logits = torch.empty(*xt.shape, bed.vocab, dtype=torch.float64)
    for start in range(0, L, W):  # the clean blocks before, the own block as it is masked, nothing after it
        alone = torch.full_like(xt, bed.mask)
        alone[:, :start], alone[:, start : start + W] = x0[:, :start], xt[:, start : start + W]
        logits[:, start : start + W] = function(alone)[:, start : start + W, : bed.vocab]
    return logits[at // (2 * L), at % (2 * L)]


def losses(name: str, predictor: str = "oracle", x: Tensor = STAR, bed: Bed = BED, grid: int = 12, **noise) -> Tensor:
    """The loss of a row for every mask, each equally likely."""
    noise = bed_noise(bed, **noise)
    call = OBJECTIVES[name].ask(everything(x, grid), noise)
    return weighted(group_sums(cross_entropy(predicted(bed, predictor, call, noise), call), call), call)
