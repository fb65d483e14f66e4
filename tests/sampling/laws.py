"""The exact output law of a sampler: its loop is run once for every outcome of its random choices, all in one batch.

Each batch row carries a script: the token drawn at every position in every step, and the order of the positions. The
row's weight is the probability that the sampler's own draws follow the script, so no Monte Carlo is involved.
"""

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from llada.sampling.denoise import denoise
from llada.sampling.reveals import Step, top_k


def output_law(
    bed, predictor: str, *, steps: int, order=None, counts: tuple[int, ...] | None = None, canvas: Tensor | None = None
) -> tuple[Tensor, int]:
    """Probability of every sequence (V^L,), and the number of predictions.

    `order` None is the uniformly random order, enumerated over all permutations of the canvas; `counts` are revealed
    in the steps instead of equal shares.
    """
    L, V = bed.length, bed.vocab
    drafts = torch.tensor(list(itertools.product(range(V), repeat=L)))  # one step's script, for all positions
    scripts = torch.tensor(list(itertools.product(range(len(drafts)), repeat=steps)))  # (S, steps)
    orders = torch.tensor(list(itertools.permutations(range(L))), dtype=torch.float64) if order is None else None
    copies = 1 if orders is None else len(orders)
    script = drafts[scripts].repeat(copies, 1, 1)  # (rows, steps, L)
    rows = len(script)
    ranks = None if orders is None else orders.repeat_interleave(len(scripts), dim=0)
    start = torch.full((1, L), bed.mask) if canvas is None else canvas
    weight = torch.full((rows,), 1.0 / copies, dtype=torch.float64)
    step = -1

    def predict(canvas: Tensor, block: slice) -> Tensor:
        nonlocal step, weight
        step += 1
        logits = getattr(bed, predictor)(canvas)
        masked = canvas == bed.mask
        p = logits[..., :V].softmax(dim=-1).gather(-1, script[:, step, :, None])[..., 0]
        weight = weight * torch.where(masked, p, 1.0 / V).prod(dim=1)  # script entries without use are uniform
        return logits[:, block]

    def reveal(given: Step) -> Tensor:
        return top_k(given if counts is None else replace(given, count=torch.full((rows,), counts[step])))

    states = list(
        denoise(
            predict,
            start.expand(rows, -1),
            bed.mask,
            steps=steps,
            draft=lambda logits, masked, uniforms: script[:, step],
            order=(lambda logits, draft, uniforms: ranks) if order is None else order,
            reveal=reveal,
        )
    )
    left_over = V ** (L * (steps - len(states)))  # steps that the sampler did not need
    law = torch.zeros(V**L, dtype=torch.float64).index_add(0, bed.index(states[-1].canvas), weight / left_over)
    return law, len(states)


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)


def entropy(p: Tensor) -> float:
    return float(-(p * p.clamp(min=1e-300).log()).sum())
