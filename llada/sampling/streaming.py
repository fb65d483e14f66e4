"""Text that can no longer change, while the rest is still being written: block after block of a sampler."""

from collections.abc import Iterator

import torch
from torch import Tensor

from llada.sampling.config import SamplerConfig
from llada.sampling.denoise import State
from llada.sampling.reveals import REVEALS


def finished_blocks(states: Iterator[State], start: int) -> Iterator[tuple[State, int]]:
    """Each state as it comes, and up to which column (exclusive) the tokens from `start` on are final.

    A sampler may edit the tokens of a block and mask them again until the next block begins, so a block is final with
    the first state of the next one. After the end of the states the last one comes once more, with the canvas's length,
    as all of it is final; a state that comes for the first time never has that.

    Supposes blocks from left to right, as those of `generate` and `infill` are.
    """
    state = None
    for state in states:
        yield state, max(start, state.block.start)
    if state is not None:
        yield state, state.canvas.shape[1]


def settled_tokens(state: State, sampler: SamplerConfig, mask_token_id: int, start: int) -> Tensor:
    """How many tokens from column `start` on do not change any more, int64 (B,).

    Those before the first mask; where a sampler may take back what it revealed, the blocks before the present one.
    """
    if REVEALS[sampler.reveal].remasking or sampler.edit_threshold is not None:
        return torch.full((len(state.canvas),), max(state.block.start - start, 0))
    return (state.canvas[:, start:] != mask_token_id).long().cumprod(dim=1).sum(dim=1)
