"""From a data set to batches, such that each is a pure function of (seed, step).

A step looks at `batch_size` consecutive samples of the epoch's order. Which process, micro-batch or worker handles a
sample changes nothing about it: noise, random length and padding are decided by the sample's place alone. What the
model is asked about them is the objective's (`llada.train.objectives`).

Shapes: B rows of a micro-batch, L length.
"""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from llada.train.noise import epoch_order, mask_uniforms, random_length, split_point, times
from llada.train.objectives import ELBO, Call, Noise, Objective, Padded
from llada.train.signals import STOPPING
from llada.whole import check_whole


class Rows(Protocol):
    """A data set: row i is {"x0": int (l,)}, and for fine-tuning {"maskable": bool (l,)} beside it.

    {"documents": int (l,)} beside them numbers the documents of a row: tokens see their own document alone.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, np.ndarray]: ...


def chosen(rows: Rows, indices: Sequence[int]) -> Rows:
    """Some rows of a data set, in this order."""
    return cast(Rows, Subset(cast(Dataset, rows), indices))


@dataclass(frozen=True)
class Place:
    """Where a sample stands in training: this decides everything random about it."""

    epoch: int
    index: int  # in the epoch's order
    length: int | None  # to which its response is continued with padding; None: padding is hidden and does not count


class Batch(NamedTuple):
    """A micro-batch."""

    call: Call
    lengths: Tensor  # (B,) tokens that count: all real ones, or the maskable ones in fine-tuning
    read: Tensor  # (B,) tokens that the network reads, padding aside
    places: list[Place]
    tell: Callable[[Tensor], None] | None = None  # takes the largest log-probability at each target, where it is needed


@dataclass(frozen=True)
class Batches:
    """The data side of a training run: which samples make up a step, and what noise they get.

    Rows of unequal length are padded with `noise.pad_token_id`. Where rows have a `maskable` (fine-tuning), they are
    padded to the longest row of the global batch and the padding is part of the response, as in LLaDA
    (arXiv:2502.09992, appendix B.1); elsewhere (random lengths, or without `noise.eos_padding`) padding is hidden from
    the model.
    """

    rows: Rows
    batch_size: int  # samples per optimiser step, over all processes
    noise: Noise
    micro_batch_size: int | None = None  # samples per forward pass and process; None: all of the process's
    workers: int = 0  # processes that prepare batches
    objective: Objective = ELBO
    order: Callable[[int, int, int], np.ndarray] | None = None  # (seed, epoch, rows in it) → rows; None: each once

    def __post_init__(self):
        check_whole("batch_size", self.batch_size, 1)
        check_whole("workers", self.workers, 0)
        if self.micro_batch_size is not None:
            check_whole("micro_batch_size", self.micro_batch_size, 1)
        if len(self.rows) < self.batch_size:
            raise ValueError(f"batch_size={self.batch_size} exceeds the {len(self.rows)} rows of the data set")

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch; the samples that do not fill a last step come in another epoch's order."""
        return len(self.rows) // self.batch_size

    def row(self, place: Place) -> int:
        """Which row of the data set stands at a place."""
        return int(self.visits(place.epoch)[place.index])

    def visits(self, epoch: int) -> np.ndarray:
        """The rows of an epoch in their order, int64; those beyond the last whole batch are not visited."""
        if self.order is not None:
            return self.order(self.noise.seed, epoch, self.per_epoch * self.batch_size)
        return epoch_order(self.noise.seed, epoch, len(self.rows))

    def micro_batches(self, rank: int, processes: int, start: int, stop: int) -> Iterator[list[Batch]]:
        """For each step of start..stop-1, the micro-batches of this process."""
        first, share, size = self.shared(rank, processes)
        per_step = -(-share // size)
        loader = DataLoader(
            _Placed(self),
            batch_sampler=self.places(first, share, size, start, stop),  # pyright: ignore[reportArgumentType]
            num_workers=self.workers,
            collate_fn=partial(collate, noise=self.noise, batch_size=self.batch_size, objective=self.objective),
            worker_init_fn=_leave_signals_to_the_parent,
        )
        batches = iter(loader)
        for _ in range(start, stop):
            yield [next(batches) for _ in range(per_step)]

    def shared(self, rank: int, processes: int) -> tuple[int, int, int]:
        """Of the samples of a step, the first that is this process's, how many are, and how many go together."""
        if self.batch_size % processes:
            raise ValueError(f"batch_size={self.batch_size} cannot be shared equally by {processes} processes")
        share = self.batch_size // processes
        return rank * share, share, min(self.micro_batch_size or share, share)

    def places(self, first: int, share: int, size: int, start: int, stop: int) -> Iterator[list[Place]]:
        """One list of places per micro-batch, for the samples `first .. first + share` of each step."""
        responses, order = "maskable" in self.rows[0], np.empty(0)
        for step in range(start, stop):
            epoch, batch = divmod(step, self.per_epoch)
            begin = batch * self.batch_size
            if responses and (step == start or batch == 0):
                order = self.visits(epoch)
            indices = order[begin : begin + self.batch_size]
            pads = responses and self.noise.eos_padding
            length = max(len(self.rows[int(i)]["x0"]) for i in indices) if pads else None
            places = [Place(epoch, begin + first + i, length) for i in range(share)]
            for i in range(0, share, size):
                yield places[i : i + size]


class _Placed(Dataset):
    """The data set seen through the order of each epoch."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.order: tuple[int, np.ndarray] | None = None  # of the latest epoch

    def __getitem__(self, place: Place) -> tuple[Place, Mapping[str, np.ndarray]]:
        if self.order is None or self.order[0] != place.epoch:
            self.order = (place.epoch, self.batches.visits(place.epoch))
        return place, self.batches.rows[int(self.order[1][place.index])]


def _leave_signals_to_the_parent(worker: int) -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


Sample = tuple[Place, Mapping[str, np.ndarray]]


def collate(samples: Sequence[Sample], noise: Noise, batch_size: int, objective: Objective = ELBO) -> Batch:
    """Pad a few samples of a global batch of `batch_size`, and put the objective's question about them.

    Raises ValueError as `pad`.
    """
    places = [place for place, _ in samples]
    t = noise.t_min + (noise.t_max - noise.t_min) * _stratified_times(places, noise, batch_size)
    return asked(pad(samples, noise, t), places, noise, objective)


def asked(
    padded: Padded,
    places: list[Place],
    noise: Noise,
    objective: Objective,
    tell: Callable[[Tensor], None] | None = None,
) -> Batch:
    """The objective's question about rows."""
    lengths, read = padded.maskable.sum(dim=1), padded.real.sum(dim=1) * objective.reads
    return Batch(objective.ask(padded, noise), lengths, read, places, tell)


def pad(samples: Sequence[Sample], noise: Noise, t: Tensor) -> Padded:
    """Rows as a rectangle, with times (B,) and the numbers that belong to their places.

    Raises ValueError where a row is empty, has nothing maskable, or holds [MASK] where it is maskable.
    """
    places = [place for place, _ in samples]
    cut = [_cut(row, place, noise) for place, row in samples]
    L = max(place.length or len(x0) for (x0, _, _), place in zip(cut, places, strict=True))
    B = len(samples)
    x0 = torch.full((B, L), noise.pad_token_id)
    maskable = torch.zeros(B, L, dtype=torch.bool)
    real = torch.zeros(B, L, dtype=torch.bool)
    documents = torch.full((B, L), -1)  # padding is a document of its own
    uniforms = torch.ones(B, L)
    for i, ((tokens, response, document), place) in enumerate(zip(cut, places, strict=True)):
        n = len(tokens)
        x0[i, :n] = torch.from_numpy(tokens)
        maskable[i, :n] = True if response is None or noise.mask_prompt else torch.from_numpy(response)
        maskable[i, n : place.length] = place.length is not None  # end-of-sequence padding belongs to the response
        real[i, : place.length or n] = True
        documents[i, : place.length or n] = 0 if document is None or not n else int(document[-1])
        documents[i, :n] = 0 if document is None else torch.from_numpy(document)
        uniforms[i] = mask_uniforms(noise.seed, place.epoch, place.index, L)
    _check(x0, maskable, places, noise)
    shared = ((documents != documents[:, :1]) & real).any()
    return Padded(x0, maskable, real, t, uniforms, documents if shared else None)


def _cut(
    row: Mapping[str, np.ndarray], place: Place, noise: Noise
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The tokens of a row, which are maskable, and the number of each one's document; None: all of them, one."""
    _check_row(row, place)
    x0 = np.asarray(row["x0"], dtype=np.int64)
    maskable, documents = row.get("maskable"), row.get("documents")
    if noise.random_length and maskable is not None:
        raise ValueError(
            f"row {place.index} of epoch {place.epoch} has a maskable part, which random_length={noise.random_length} "
            "could cut off; set it to 0"
        )
    if noise.random_length:
        x0 = x0[: random_length(noise.seed, place.epoch, place.index, len(x0), noise.random_length)]
    if maskable is not None and not noise.eos_padding:
        x0, maskable = np.append(x0, noise.pad_token_id), np.append(maskable, True)
    documents = None if documents is None else documents[: len(x0)].astype(np.int64)
    if noise.split:
        point = split_point(noise.seed, place.epoch, place.index, len(x0), noise.split)
        if point is not None:
            after = (np.arange(len(x0)) >= point).astype(np.int64)
            documents = after if documents is None else 2 * documents + after
    return x0, maskable, documents


def _check_row(row: Mapping[str, np.ndarray], place: Place) -> None:
    """Raise ValueError for a row that is not what `Rows` says."""
    length = None
    for name, kinds, wanted in (("x0", "iu", "integer"), ("maskable", "b", "bool"), ("documents", "iu", "integer")):
        if name == "x0" or row.get(name) is not None:
            part = np.asarray(row[name])
            length = part.size if length is None else length  # of x0
            if part.shape != (length,) or (length and part.dtype.kind not in kinds):
                raise ValueError(
                    f"row {place.index} of epoch {place.epoch}: {name} is {part.dtype} {part.shape}; it must be "
                    f"{wanted} ({length},), one for each token"
                )


def _stratified_times(places: list[Place], noise: Noise, batch_size: int) -> Tensor:
    epochs = {place.epoch for place in places}
    (epoch,) = epochs  # a step never spans two epochs
    return times(noise.seed, epoch, torch.tensor([place.index for place in places]), batch_size)


def _check(x0: Tensor, maskable: Tensor, places: list[Place], noise: Noise) -> None:
    for problem, rows in (
        ("has nothing to learn: it is empty or nothing in it is maskable", ~maskable.any(dim=1)),
        ("holds the mask token; it must not occur in training data", ((x0 == noise.mask_token_id) & maskable).any(1)),
    ):
        if rows.any():
            place = places[int(rows.nonzero()[0])]
            raise ValueError(f"row {place.index} of epoch {place.epoch} {problem}")
