"""What changed from one canvas to the next: the same for a sampler that is running and for a trace of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from llada.sampling.denoise import State
from llada.sampling.trace import Trace


class Mark(Enum):
    """What a token is at a step."""

    GIVEN = "given"  # there from the start
    MASKED = "masked"
    REMASKED = "remasked"  # at this step
    FRESH = "fresh"  # revealed, filled in or replaced at this step
    KEPT = "kept"  # from an earlier step


@dataclass(frozen=True)
class Frame:
    """One row of the canvas (L,) after a step; the first frame is what the sampler was given."""

    step: int  # so many steps are done
    ids: list[int]
    marks: list[Mark]
    probability: list[float]  # with which each was revealed, at temperature 1; 1 for what is given, NaN for masks
    revealed_at: list[int]  # the step that fixed each, from 1; 0 for what is given and for masks

    @property
    def masks(self) -> int:
        return sum(self.hidden)

    @property
    def hidden(self) -> list[bool]:
        return [mark in (Mark.MASKED, Mark.REMASKED) for mark in self.marks]


class Frames:
    """Makes the frames of one row, one canvas after another."""

    def __init__(self, canvas: Tensor, mask_token_id: int):
        """Args: canvas: tokens (L,) that the sampler was given."""
        self._start = self._before = canvas
        self._mask_token_id = mask_token_id
        self._held = torch.ones(len(canvas), dtype=torch.float64)
        self._revealed_at = torch.zeros_like(canvas)
        self._step = 0
        self.first = self._frame(canvas)

    def after(self, canvas: Tensor, probability: Tensor) -> Frame:
        """The next one: the canvas (L,), and float64 (L,) the probability of the tokens that were revealed in it."""
        self._step += 1
        changed = canvas != self._before
        self._held = torch.where(changed, probability, self._held)
        self._revealed_at = torch.where(changed, self._step, self._revealed_at)
        frame = self._frame(canvas)
        self._before = canvas
        return frame

    def _frame(self, canvas: Tensor) -> Frame:
        masked = canvas == self._mask_token_id
        marks = map(self._mark, self._start.tolist(), self._before.tolist(), canvas.tolist())
        return Frame(
            step=self._step,
            ids=canvas.tolist(),
            marks=list(marks),
            probability=self._held.masked_fill(masked, torch.nan).tolist(),
            revealed_at=self._revealed_at.masked_fill(masked, 0).tolist(),
        )

    def _mark(self, given: int, was: int, now: int) -> Mark:
        if now == self._mask_token_id:
            return Mark.MASKED if was == now else Mark.REMASKED
        if now != was:
            return Mark.FRESH
        return Mark.GIVEN if now == given else Mark.KEPT


def probability_of(state: State, row: int) -> Tensor:
    """Of the tokens that a step revealed, float64 (L,) on the CPU; 1 elsewhere."""
    probability = torch.ones(state.canvas.shape[1], dtype=torch.float64)
    probability[state.block] = state.probability[row].cpu()
    return probability


def recorded(trace: Trace, row: int = 0) -> Iterator[Frame]:
    """The frames of a row of a trace; steps that the row took no part in are left out."""
    B, L = trace.canvas.shape
    if not 0 <= row < B:
        raise ValueError(f"row={row} is none of the trace's {B} rows, which count from 0")

    made = Frames(trace.canvas[row], trace.mask_token_id)
    yield made.first
    for number, (canvas, taken) in enumerate(zip(trace.replay(), steps_of(trace, row).tolist(), strict=True)):
        if taken:
            here = (trace.step == number) & (trace.row == row)
            probability = torch.ones(L, dtype=torch.float64)
            probability[trace.position[here]] = trace.probability[here]
            yield made.after(canvas[row], probability)


def steps_of(trace: Trace, row: int) -> Tensor:
    """Which steps (S,) a row of a trace took part in: those that sampled it, and those that changed it otherwise."""
    taken = trace.active[:, row].clone()
    taken[trace.step[trace.row == row]] = True
    return taken
