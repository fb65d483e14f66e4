"""Pools of rows, and models that say what they were shown."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from test_batches import MASK, PAD
from torch import Tensor

from llada.train.batches import Batch, Batches, Place, Rows
from llada.train.objectives import OBJECTIVES, Noise
from llada.train.puma import Pool, Stages

PUMA = OBJECTIVES["puma"]


def pool_of(
    rows: Rows,
    size: int = 8,
    stages: int | Stages = 4,
    micro: int | None = None,
    threshold: float | None = None,
    **noise,
) -> Pool:
    batches = Batches(rows, size, Noise(MASK, PAD, **noise), micro, objective=PUMA)
    return Pool(batches, Stages(stages) if isinstance(stages, int) else stages, threshold)


def hashed(batch: Batch) -> Tensor:
    """A confidence for every masked position that depends on what its row shows, and on nothing beside it."""
    canvas = batch.call.inputs["input_ids"]
    position = torch.arange(1, canvas.shape[1] + 1)
    seen = (canvas * position * (canvas != PAD)).sum(dim=1, keepdim=True)
    values = (seen * 37 + position * position * 101) % 97 / 97.0
    return -values.flatten()[batch.call.inputs["logits_at"]] - 0.01


def told(
    pool: Pool,
    start: int,
    stop: int,
    confidence: Callable[[Batch], Tensor] = hashed,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[list[Batch]]:
    """The micro-batches of each step, after they were told their confidences."""
    for micro_batches in pool.micro_batches(rank, processes, start, stop):
        for batch in micro_batches:
            assert batch.tell is not None
            batch.tell(confidence(batch))
        yield micro_batches


class Seen(NamedTuple):
    """A row in a step."""

    place: Place
    x0: list[int]
    masked: list[bool]
    length: int  # tokens that count
    weight: float

    @property
    def left(self) -> int:
        return sum(self.masked)


def seen(micro_batches: list[Batch], mask: int = MASK) -> list[Seen]:
    """The rows of a step in the order of their slots, without padding."""
    rows = []
    for batch in micro_batches:
        xt, real = batch.call.inputs["input_ids"], batch.call.inputs["attention_mask"]
        masked = xt == mask
        x0 = xt.clone()
        x0[masked] = batch.call.targets
        for i, where in enumerate(batch.places):
            n = xt.shape[1] if real is None or real.dim() > 2 else int(real[i].sum())
            fields = x0[i, :n].tolist(), masked[i, :n].tolist()
            rows.append(Seen(where, *fields, int(batch.lengths[i]), float(batch.call.weights[i])))
    return rows
