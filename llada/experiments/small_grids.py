"""A distribution whose samples can be judged exactly: the 288 grids of 4 × 4 Sudoku, each equally likely.

Models of it are trained on draws from all of it, so that nothing is held out, and its bound is measured on all grids
under other masks than those of training; it is at least log 288 nats per grid.

Each cell follows a token that names it and is never masked: the network sees distances alone, and would have to learn
first where it is.

Shapes: L tokens of a grid, two for each cell; N samples.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llada.config import ConfigError
from llada.experiments.filled import filled
from llada.experiments.sudoku import Box, Grid, solutions
from llada.model.configuration import LLaDAConfig
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.train.batches import Batches
from llada.train.loop import evaluate, fit
from llada.train.objectives import OBJECTIVES, Noise
from llada.train.optim import OPTIMIZERS, warmup_stable_decay

BOX = Box(2, 2)
MASK = 0  # beside the values 1..4
NAMES = range(BOX.side + 1, BOX.side + 1 + BOX.cells)  # tokens of the cells
_AT_ONCE = 1000  # samples in a batch


@cache
def all_grids() -> tuple[Grid, ...]:
    """In ascending order."""
    return tuple(sorted(solutions(BOX.blank, BOX)))


class GridRows:
    """The grids as rows of training."""

    def __init__(self):
        self.tokens = np.array(
            [[token for pair in zip(NAMES, grid, strict=True) for token in pair] for grid in all_grids()]
        )
        self.maskable = np.tile([False, True], BOX.cells)  # (L,)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int, /) -> dict[str, np.ndarray]:
        return {"x0": self.tokens[index], "maskable": self.maskable}


def grid_config(sizes: Mapping[str, Any]) -> LLaDAConfig:
    """Of a model with these sizes. Raises ConfigError where they name a token, and where they cannot be."""
    tokens = {"vocab_size": NAMES.stop, "mask_token_id": MASK}
    for name in sizes:
        if name in tokens:
            raise ConfigError(f"model.{name}={sizes[name]!r} is that of the grids, {tokens[name]}; leave it out")
    try:
        return LLaDAConfig(**tokens, **sizes)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def trained(
    sizes: dict[str, Any],
    *,
    objective: str,
    optimizer: str,
    rate: float,
    warmup: int,
    steps: int,
    batch_size: int,
    seed: int,
) -> LLaDAForMaskedLM:
    """A model after so many steps, in evaluation mode; the rate falls to 0 in the second half."""
    torch.manual_seed(seed)
    model = LLaDAForMaskedLM(grid_config(sizes))
    batches = Batches(GridRows(), batch_size, _noise(seed), objective=OBJECTIVES[objective])
    rates = {"peak": rate, "steps": steps, "warmup": warmup, "decay": steps // 2}
    for _ in fit(
        model,
        batches,
        OPTIMIZERS[optimizer](model),
        learning_rate=lambda step: warmup_stable_decay(step, **rates),
        steps=steps,
    ):
        pass
    return model.eval()


def _noise(seed: int) -> Noise:
    return Noise(MASK, MASK, seed, masking="count")  # no row is padded


def bound_of(model: LLaDAForMaskedLM, draws: int) -> tuple[float, float]:
    """On all grids, in nats per grid, with its standard error over grids; under masks that all models share."""
    rows = GridRows()
    found = evaluate(model, rows, _noise(2**31), batch_size=len(rows), draws=draws)
    return found.value * BOX.cells, found.stderr * BOX.cells


def sampled(model: LLaDAForMaskedLM, sampler: SamplerConfig, count: int, seed: int) -> dict[str, Any]:
    """Grids from nothing but masks, judged, and the calls of the network that each took on average."""
    blank = torch.tensor([token for name in NAMES for token in (name, MASK)])
    found = filled(model, blank.expand(count, -1), sampler, at_once=_AT_ONCE, seed=seed)
    return {"evaluations": float(found.forward_passes.double().mean()), **judged(found.sequences[:, 1::2])}


def judged(samples: Tensor) -> dict[str, Any]:
    """How many of the grids (N, cells) are valid, and how many different ones these are worth.

    That is one over the probability that two valid samples are the same grid, which is estimated without bias first:
    288 where all come equally often. None where no two were the same.
    """
    known = {grid: number for number, grid in enumerate(all_grids())}
    found = [known[grid] for row in samples.tolist() if (grid := tuple(row)) in known]
    counts = np.bincount(found, minlength=len(known)).astype(float)
    pairs, same = len(found) * (len(found) - 1), float((counts * (counts - 1)).sum())
    return {"samples": len(samples), "valid": len(found), "worth": pairs / same if same else None}
