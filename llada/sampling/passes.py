"""How often a sampler may call the network, for those who let others choose it."""

import math

from llada.sampling.config import SamplerConfig


def most_passes(sampler: SamplerConfig, length: int) -> int:
    """The most calls of the network for an answer of so many tokens, each canvas that speculation tries being one."""
    blocks = math.ceil(length / (sampler.block_length or length or 1))
    steps = length if sampler.steps is None else sampler.steps
    if isinstance(sampler.counts, list):
        steps = len(sampler.counts) * blocks
    if sampler.longest is not None:
        steps = 2 * length  # at most one in which the canvas grows for one that reveals
    if sampler.edit_threshold is not None:
        steps += blocks * (16 if sampler.edit_steps is None else sampler.edit_steps)
    return steps * (sampler.speculation or 1) * (2 if sampler.cfg_scale > 0 else 1)
