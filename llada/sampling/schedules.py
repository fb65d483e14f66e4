"""How many tokens each step reveals."""

import torch
from torch import Tensor


def even_counts(masks: Tensor, steps: int) -> Tensor:
    """Share each row's masks equally over the steps, the remainder to the first ones (LLaDA, arXiv:2502.09992, alg. 5).

    `masks` is int (B,), the result int (B, steps): 10 masks in 4 steps are 3, 3, 2, 2; 3 in 5 are 1, 1, 1, 0, 0.
    """
    step = torch.arange(steps, device=masks.device)
    return masks[:, None] // steps + (step < masks[:, None] % steps)
