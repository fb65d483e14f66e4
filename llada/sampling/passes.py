"""How often a sampler may call the network, for those who let others choose it."""

from collections.abc import Iterable

from llada.sampling.config import SamplerConfig


def most_passes(sampler: SamplerConfig, masks: Iterable[int]) -> int:
    """The most calls of the network for an answer, each canvas that speculation tries being one.

    Args:
        masks: their positions, from where the blocks begin: all of an answer, or the gaps of a canvas, of which a block
            without any takes no step.
    """
    places = list(masks)
    blocks = 1 if sampler.block_length is None else len({place // sampler.block_length for place in places})
    steps = len(places) if sampler.steps is None else sampler.steps
    if isinstance(sampler.counts, list):
        steps = len(sampler.counts) * blocks
    if sampler.longest is not None:
        steps = 2 * len(places)  # at most one in which the canvas grows for one that reveals
    if sampler.edit_threshold is not None:
        steps += blocks * (16 if sampler.edit_steps is None else sampler.edit_steps)
    return steps * (sampler.speculation or 1) * (2 if sampler.cfg_scale > 0 else 1)
