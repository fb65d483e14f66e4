"""Text that can no longer change, while the rest is still being written: block after block of a sampler."""

from collections.abc import Iterator

from llada.sampling.denoise import State


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
