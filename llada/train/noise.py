"""The randomness of training as pure functions of (seed, epoch, index of the sample in the epoch).

Nothing here keeps state, so data order, masks and lengths are the same at any number of processes, micro-batch size
or number of workers, and after any resume.
"""

import numpy as np
import torch
from torch import Tensor

# Independent streams of one seed; the numbers are arbitrary and must never change.
_ORDER, _OFFSET, _MASKS, _LENGTH, _PASS, _SPLIT, _SLOTS, _SHARES = range(8)


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The permutation of 0..size-1 in which an epoch visits its samples, int64."""
    return _stream(seed, _ORDER, epoch).permutation(size)


def pass_order(seed: int, corpus: int, number: int, size: int) -> np.ndarray:
    """The permutation of 0..size-1 in which a mixture goes through a corpus for the so-manieth time, int64."""
    return _stream(seed, _PASS, corpus, number).permutation(size)


def times(seed: int, epoch: int, indices: Tensor, batch_size: int) -> Tensor:
    """One time in [0, 1) per sample, float32, stratified over each global batch of `batch_size` consecutive samples.

    Sample i of the epoch gets `(u_b + (i mod batch_size) / batch_size) mod 1`, where u_b belongs to its batch.
    """
    batches = (indices // batch_size).tolist()
    offsets = {batch: float(_stream(seed, _OFFSET, epoch, batch).random()) for batch in set(batches)}
    strata = (indices % batch_size).double() / batch_size
    t = (torch.tensor([offsets[batch] for batch in batches], dtype=torch.float64) + strata) % 1
    return t.float().clamp(max=1 - 2**-24)  # rounding to float32 may reach 1


def mask_uniforms(seed: int, epoch: int, index: int, length: int) -> Tensor:
    """The numbers in [0, 1) that decide which tokens of a sample are masked, float32 (length,)."""
    return torch.from_numpy(_stream(seed, _MASKS, epoch, index).random(length, dtype=np.float32))


def random_length(seed: int, epoch: int, index: int, length: int, probability: float) -> int:
    """`length`, or with the given probability a uniform draw from 1..length (arXiv:2502.09992, §2.2: 1 % of data)."""
    stream = _stream(seed, _LENGTH, epoch, index)
    return int(stream.integers(1, length + 1)) if stream.random() < probability else length


def split_point(seed: int, epoch: int, index: int, length: int, probability: float) -> int | None:
    """With the given probability where a sample is cut in two, uniform in 1..length-1; else, or if too short, None."""
    stream = _stream(seed, _SPLIT, epoch, index)
    return int(stream.integers(1, length)) if stream.random() < probability and length > 1 else None


def slot_order(seed: int, batch_size: int) -> np.ndarray:
    """The permutation of 0..batch_size-1 by which the slots of a pool (`llada.train.puma`) are ahead, int64."""
    return _stream(seed, _SLOTS).permutation(batch_size)


def share_uniforms(seed: int, step: int, batch_size: int) -> Tensor:
    """The numbers in [0, 1) that decide how much each slot of a pool shows at a step, float32 (batch_size,)."""
    return torch.from_numpy(_stream(seed, _SHARES, step).random(batch_size, dtype=np.float32))


def _stream(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *path))))
