"""Many canvases filled in, batch after batch.

Shapes: N canvases, L length.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import infill


class Filled(NamedTuple):
    """On the CPU."""

    sequences: Tensor  # (N, L)
    forward_passes: Tensor  # (N,) network evaluations that each row took part in


def filled(model: LLaDAForMaskedLM, canvases: Tensor, sampler: SamplerConfig, *, at_once: int, seed: int) -> Filled:
    """The canvases (N, L) without masks; row i's randomness is a function of (seed, i), whatever it is batched with."""
    sequences, passes = [], []
    for start in range(0, len(canvases), at_once):
        some = canvases[start : start + at_once].to(model.device)
        out = infill(model, some, sampler=sampler, seed=seed, first_row=start)
        sequences.append(out.sequences.cpu())
        passes.append(out.forward_passes.cpu())
    return Filled(torch.cat(sequences), torch.cat(passes))
