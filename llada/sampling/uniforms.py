"""Random numbers of a sampler as a function of (seed, row, position, step): no state, no order of use.

A row's numbers do not depend on its neighbours, on padding, on the batch size or on the device. They come from the
finaliser of SplitMix64 (Steele, Lea and Flood, 2014), applied to the counters one after another; 53 bits each.

Shapes: B batch, L length, W window.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from llada.splitmix import mixed, shifted


class Stream(IntEnum):
    """Uses of random numbers within a step, each with numbers of its own. These values must never change."""

    DRAFT = 0
    ORDER = 1
    REVEAL = 2
    SPECULATIVE_DRAFT = 3
    SPECULATIVE_ORDER = 4
    ACCEPT = 5
    REPLACE = 6


def moment(block: int, step: int) -> int:
    """The counter of a step: its number in its block, so that no row depends on when others finished earlier blocks."""
    return (block << 32) + step


@dataclass(frozen=True)
class RowUniforms:
    """The source of all randomness of one call of a sampler."""

    seed: Tensor  # (B,) int64, of the request that each batch row belongs to
    rows: Tensor  # (B,) int64, which row of the request each batch row is
    positions: Tensor  # (B, L) int64, the token's index in its own sequence, padding not counted

    def __call__(self, columns: slice, step: int, stream: int) -> Tensor:
        """Numbers in (0, 1) for a window of the canvas, float64 (B, W); another `stream` gives independent ones."""
        key = torch.zeros_like(self.rows[:, None])
        for counter in (self.seed[:, None], self.rows[:, None], step, stream):
            key = _step(key + counter)
        bits = _step(key + self.positions[:, columns])
        return ((shifted(bits, 11).double() + 0.5) * 2.0**-53).clamp(max=1 - 2.0**-53)  # the last one rounds to 1


def _step(key: Tensor) -> Tensor:
    """One step of SplitMix64."""
    return mixed(key - 7046029254386353131)  # 0x9E3779B97F4A7C15 as a signed integer
