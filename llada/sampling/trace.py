"""What happened at each step of `denoise`, one row of a table per token that changed.

A `Recorder` watches the states go by and keeps what differs between a canvas and the next; its `Trace` is a file, gives
every canvas again, and is what `llada.sampling.trace_measures` measures.

Shapes: B batch, L length, S steps, N changes.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from llada.durable import publish_file
from llada.sampling.denoise import State
from llada.sampling.likeliest import Likeliest

VERSION = 2


class Kind(IntEnum):
    """What became of a token. The numbers are those of the file."""

    REVEALED = 0  # [MASK] gave way to the draft
    REMASKED = 1
    EDITED = 2  # another token took its place
    FILLED = 3  # with the stop token, as the row had stopped; no prediction asked for it


_COLUMNS = ("step", "row", "position", "token", "kind")  # of whole numbers, beside probability


@dataclass(frozen=True, eq=False)
class Trace:
    """A run of the sampler, on the CPU. Changes are sorted by step, row and position.

    Raises ValueError where that is not so, where columns differ in length, where a change lies outside the canvas or
    the steps, and for a probability that is not finite, which no sampler gives.
    """

    mask_token_id: int
    canvas: Tensor  # int64 (B, L) before the first step
    index: Tensor  # int64 (S,) of each step, `State.index`
    blocks: Tensor  # int64 (S, 2) where each step's window begins and ends
    active: Tensor  # bool (S, B) rows that took part
    step: Tensor  # int64 (N,) at which a token changed, from 0 in every trace
    row: Tensor  # int64 (N,)
    position: Tensor  # int64 (N,) in the canvas
    token: Tensor  # int64 (N,) after the step
    kind: Tensor  # int64 (N,) one of `Kind`
    probability: Tensor  # float64 (N,) of a revealed token, at temperature 1; 1 for the other kinds
    alternatives: Tensor  # int64 (N, K) the likeliest tokens where it was revealed, [MASK] elsewhere; K may be 0
    alternative_probability: Tensor  # float64 (N, K) theirs, descending, 0 for [MASK]
    version: int = VERSION

    def __post_init__(self):
        B, L = self.canvas.shape
        if self.version != VERSION:
            raise ValueError(f"version {self.version!r} of a trace is unknown; known: {VERSION}")
        lengths = {name: len(getattr(self, name)) for name in (*_COLUMNS, "probability")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns have unequal lengths: {lengths}")
        if self.blocks.shape != (self.steps, 2) or self.active.shape != (self.steps, B):
            raise ValueError(
                f"{self.steps} steps of {B} rows need blocks ({self.steps}, 2) and active ({self.steps}, {B}), not "
                f"{tuple(self.blocks.shape)} and {tuple(self.active.shape)}"
            )
        for name in ("canvas", "token", "alternatives"):
            if (getattr(self, name) < 0).any():
                raise ValueError(f"{name} has a token below 0")
        if self.probability.dim() != 1:
            raise ValueError(f"probability has size {tuple(self.probability.shape)}; it must be one number per change")
        for name in ("probability", "alternative_probability"):
            if not getattr(self, name).isfinite().all():
                raise ValueError(f"{name} has a value that is not finite")
        if ((self.blocks < 0) | (self.blocks > L)).any() or (self.blocks[:, 0] > self.blocks[:, 1]).any():
            raise ValueError(f"a block does not begin and end within the {L} positions")
        for name, size in (("step", self.steps), ("row", B), ("position", L), ("kind", len(Kind))):
            column = getattr(self, name)
            outside = column[(column < 0) | (column >= size)]
            if len(outside):
                raise ValueError(f"{name} {int(outside[0])} lies outside of 0..{size - 1}")
        sizes = [tuple(table.shape) for table in (self.alternatives, self.alternative_probability)]
        if sizes[0] != sizes[1] or len(self.alternatives) != len(self.step):
            raise ValueError(f"alternatives {sizes[0]} and their probabilities {sizes[1]} are not of {len(self.step)}")
        if (((self.step * B + self.row) * L + self.position).diff() <= 0).any():
            raise ValueError("the changes are not sorted by step, row and position, or one is there twice")
        if ((self.token == self.mask_token_id) != (self.kind == Kind.REMASKED)).any():
            raise ValueError(f"the changes to [MASK], {self.mask_token_id}, are not those of kind {Kind.REMASKED:d}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trace):
            return NotImplemented
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)

    @property
    def steps(self) -> int:
        return len(self.index)

    def replay(self) -> Iterator[Tensor]:
        """The canvas (B, L) after each step, a new tensor each time."""
        canvas = self.canvas
        ends = self.step.bincount(minlength=self.steps).cumsum(dim=0).tolist()
        for start, stop in pairwise((0, *ends)):
            canvas = canvas.clone()
            canvas[self.row[start:stop], self.position[start:stop]] = self.token[start:stop]
            yield canvas

    @property
    def final(self) -> Tensor:
        """The canvas (B, L) after the last step."""
        last = self.last(*Kind)
        changed = last >= 0
        return self.canvas.masked_scatter(changed, self.token[last[changed]])

    def last(self, *kinds: Kind) -> Tensor:
        """Which change of these kinds was the last at each position, (B, L); -1 where there was none.

        Changes are sorted, so within a row these numbers are in the order of steps, and from left to right in a step.
        """
        among = torch.isin(self.kind, torch.tensor(kinds)).nonzero()[:, 0]
        place = self.row[among] * self.canvas.shape[1] + self.position[among]
        last = torch.full((self.canvas.numel(),), -1)
        return last.scatter_reduce_(0, place, among, "amax").reshape(self.canvas.shape)

    def save(self, path: str | Path) -> None:
        """Write the trace as JSON, the whole of it or nothing; a file that had the name is replaced."""
        path = Path(path)
        stored = {"version": self.version, "mask_token_id": self.mask_token_id, "shape": list(self.canvas.shape)}
        stored |= {name: getattr(self, name).long().tolist() for name in ("canvas", "index", "blocks", "active")}
        others = ("probability", "alternatives", "alternative_probability")
        stored |= {name: getattr(self, name).tolist() for name in (*_COLUMNS, *others)}
        publish_file(path, json.dumps(stored, separators=(",", ":")).encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises ValueError, naming the file, where it is missing, damaged or unknown."""
        try:
            stored = json.loads(Path(path).read_bytes())
        except OSError as error:
            raise ValueError(f"trace {str(path)!r} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"trace {str(path)!r} is not valid JSON: {error}") from None
        try:
            return cls(**_fields(stored))
        except ValueError as error:
            raise ValueError(f"trace {str(path)!r}: {error}") from None


class Recorder:
    """Records the states that pass through `watch`.

    Args:
        canvas: the one that the sampler was given. For `generation_states` it is
            `torch.nn.functional.pad(prompt, (0, gen_length), value=mask_token_id)`.
        likeliest: what the states were given, to record alternatives as well; None: none are recorded.
    """

    def __init__(self, canvas: Tensor, mask_token_id: int, likeliest: Likeliest | None = None):
        self._start = self._canvas = canvas.clone()
        self._mask_token_id = mask_token_id
        self._likeliest = likeliest
        self._changes: list[tuple[Tensor, ...]] = []  # the columns from `row` on, of each step
        self._steps: list[tuple[int, int, int]] = []  # index, and the window
        self._active: list[Tensor] = []

    def watch(self, states: Iterator[State]) -> Iterator[State]:
        """The same states, each recorded before it is passed on."""
        for state in states:
            self._record(state)
            yield state

    def _record(self, state: State) -> None:
        before, after = self._canvas, state.canvas
        if before.shape != after.shape:
            raise ValueError(
                f"the recorder was given a canvas {tuple(before.shape)} and watches one of {tuple(after.shape)}; "
                "give it the canvas that the sampler starts from"
            )
        row, position = (before != after).nonzero(as_tuple=True)  # sync: how many there are
        # what was written and is not what the step decided, the loop has filled in after a stop token
        decided = torch.zeros_like(after, dtype=torch.bool)
        decision = torch.where(state.visible, state.draft, self._mask_token_id)
        decided[:, state.block] = state.active[:, None] & (after[:, state.block] == decision)
        probability = torch.ones_like(after, dtype=torch.float64)
        probability[:, state.block] = state.probability
        token, hidden = after[row, position], before[row, position] == self._mask_token_id
        kind = torch.where(hidden, int(Kind.REVEALED), int(Kind.EDITED))
        kind = kind.masked_fill(~decided[row, position], int(Kind.FILLED))
        kind = kind.masked_fill(token == self._mask_token_id, int(Kind.REMASKED))
        known = torch.where(kind == Kind.REVEALED, probability[row, position], 1.0)
        others = self._alternatives(state, row, position, kind == Kind.REVEALED)
        self._changes.append((row, position, token, kind, known, *others))
        self._steps.append((state.index, *state.block.indices(after.shape[1])[:2]))
        self._active.append(state.active)
        self._canvas = after

    def _alternatives(self, state: State, row: Tensor, position: Tensor, revealed: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and probabilities (N, K) where something was revealed."""
        if self._likeliest is None:
            return row.new_zeros(len(row), 0), torch.zeros(len(row), 0, dtype=torch.float64, device=row.device)
        start = state.block.indices(state.canvas.shape[1])[0]
        token = row.new_full((len(row), self._likeliest.count), self._mask_token_id)
        probability = torch.zeros(token.shape, dtype=torch.float64, device=row.device)
        place = row[revealed], position[revealed] - start
        token[revealed], probability[revealed] = self._likeliest.tokens[place], self._likeliest.probability[place]
        return token, probability

    @property
    def trace(self) -> Trace:
        """Of the states that went by so far. This is where the changes come to the CPU."""
        B = self._start.shape[0]
        counts = torch.tensor([len(change[0]) for change in self._changes], dtype=torch.long)
        none = (
            *[torch.zeros(0, dtype=torch.long)] * 4,
            torch.zeros(0, dtype=torch.float64),
            torch.zeros(0, 0, dtype=torch.long),
            torch.zeros(0, 0, dtype=torch.float64),
        )
        row, position, token, kind, probability, alternatives, alternative_probability = (
            torch.cat(column).cpu() for column in zip(*(self._changes or [none]), strict=True)
        )
        steps = torch.tensor(self._steps, dtype=torch.long).reshape(-1, 3)
        return Trace(
            mask_token_id=self._mask_token_id,
            canvas=self._start.long().cpu(),
            index=steps[:, 0],
            blocks=steps[:, 1:],
            active=torch.stack(self._active).cpu() if self._active else torch.zeros(0, B, dtype=torch.bool),
            step=torch.arange(len(counts)).repeat_interleave(counts),
            row=row,
            position=position,
            token=token.long(),
            kind=kind,
            probability=probability,
            alternatives=alternatives,
            alternative_probability=alternative_probability,
        )


def _fields(stored: Any) -> dict[str, Any]:
    """The fields of a trace from what its file holds. Raises ValueError with the problem."""
    if not isinstance(stored, dict):
        raise ValueError(f"holds a {type(stored).__name__}, not an object")
    if stored.get("version") != VERSION:  # first of all: another version may have other keys
        raise ValueError(f"version {stored.get('version')!r} of a trace is unknown; known: {VERSION}")
    known = {field.name for field in fields(Trace)} | {"shape"}
    if stored.keys() != known:
        raise ValueError(f"lacks {sorted(known - stored.keys())} and has unknown {sorted(stored.keys() - known)}")
    if type(stored["mask_token_id"]) is not int or not 0 <= stored["mask_token_id"] < 2**63:
        raise ValueError(f"mask_token_id is {stored['mask_token_id']!r}, not a whole number >= 0")
    B, L = _whole_numbers(stored, "shape", 2).tolist()
    if B < 0 or L < 0:
        raise ValueError(f"shape is {[B, L]}, not two numbers >= 0")
    S = len(stored["index"]) if isinstance(stored["index"], list) else 0
    sizes = {"canvas": (B, L), "index": (S,), "blocks": (S, 2), "active": (S, B)}
    sizes |= {name: (len(stored[name]) if isinstance(stored[name], list) else 0,) for name in _COLUMNS}
    values: dict[str, Any] = {name: _whole_numbers(stored, name, *size) for name, size in sizes.items()}
    N = len(values["step"])
    lists = stored["alternatives"] if isinstance(stored["alternatives"], list) else []
    K = len(lists[0]) if lists and isinstance(lists[0], list) else 0
    values["alternatives"] = _whole_numbers(stored, "alternatives", N, K)
    try:
        values["probability"] = torch.tensor(list(stored["probability"]), dtype=torch.float64)
        others = torch.tensor(stored["alternative_probability"], dtype=torch.float64)
        values["alternative_probability"] = others.reshape(N, -1 if others.numel() else K)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError("probability or alternative_probability is not a table of numbers") from None
    if ((values["active"] != 0) & (values["active"] != 1)).any():
        raise ValueError("active has other values than 0 and 1")
    return values | {"active": values["active"].bool(), "mask_token_id": stored["mask_token_id"]}


def _whole_numbers(stored: dict[str, Any], name: str, *size: int) -> Tensor:
    """A table of the file as int64. The lists of an empty one say too little about its size, so it is given."""
    try:
        values = torch.tensor(stored[name])
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name} is not a table of whole numbers") from None
    if values.numel() and values.dtype != torch.int64:
        raise ValueError(f"{name} is not a table of whole numbers")
    if values.numel() != math.prod(size) or (values.numel() and values.shape != size):
        raise ValueError(f"{name} has size {tuple(values.shape)}, not {size}")
    return values.long().reshape(size)
