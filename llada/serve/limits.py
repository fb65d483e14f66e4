"""What one request may ask, and what all of them may together."""

import math
from typing import Annotated

from pydantic import Field

from llada.config import Schema
from llada.sampling.config import SamplerConfig

Whole = Annotated[int, Field(ge=1)]


class Limits(Schema):
    """Bounds of a server; a request beyond one of them is refused with a message that names it."""

    body_bytes: Whole = 2**20  # of a request
    tokens: Whole = 1024  # of an answer
    passes: Whole = 1024  # calls of the network for an answer
    choices: Whole = 16  # answers to one request, over all of its prompts
    waiting: Whole = 256  # answers that are asked for and not begun
    batch: Whole = 16  # answers that are generated together
    gather: Annotated[float, Field(ge=0, le=1)] = 0.01  # seconds in which others may join a batch before it begins
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0  # from a request to the end of its answer
    connections: Whole = 1024


def most_passes(sampler: SamplerConfig, length: int) -> int:
    """The most calls of the network for an answer of so many tokens, each canvas that speculation tries being one."""
    blocks = math.ceil(length / (sampler.block_length or length))
    steps = length if sampler.steps is None else sampler.steps
    if isinstance(sampler.counts, list):
        steps = len(sampler.counts) * blocks
    if sampler.longest is not None:
        steps = 2 * length  # at most one in which the canvas grows for one that reveals
    if sampler.edit_threshold is not None:
        steps += blocks * (16 if sampler.edit_steps is None else sampler.edit_steps)
    return steps * (sampler.speculation or 1) * (2 if sampler.cfg_scale > 0 else 1)
