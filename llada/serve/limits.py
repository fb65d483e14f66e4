"""What one request may ask, and what all of them may together."""

from typing import Annotated

from pydantic import Field

from llada.config import AtLeast1, Schema


class Limits(Schema):
    """Bounds of a server; a request beyond one of them is refused with a message that names it."""

    body_bytes: AtLeast1 = 2**20  # of a request
    tokens: AtLeast1 = 1024  # of an answer
    passes: AtLeast1 = 1024  # calls of the network for an answer
    choices: AtLeast1 = 16  # answers to one request, over all of its prompts
    waiting: AtLeast1 = 256  # answers that are asked for and not begun
    batch: AtLeast1 = 16  # answers that are generated together
    gather: Annotated[float, Field(ge=0, le=1)] = 0.01  # seconds in which others may join a batch before it begins
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0  # from a request to the end of its answer
    # open at once; beyond it uvicorn refuses all requests with 503, and those that send nothing count and stay open, so
    # a server that strangers reach needs a proxy before it that closes them
    connections: AtLeast1 = 1024
