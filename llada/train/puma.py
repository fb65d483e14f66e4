"""Progressive unmasking (PUMA, arXiv:2602.10314): training on the masks that a confidence sampler meets.

A pool holds the rows of a global batch, each with what is masked of it. A step learns what is masked; then, by the same
forward pass, the positions that the model is surest of are revealed, with their true tokens, for the next step. A row
goes through K stages, one a step: in stage s a share `r ~ U[s/K, (s + 1)/K)` of it is visible, at least one token is
not, and nothing is masked again. After its last stage another row takes its slot, first with random tokens visible.

The loss is not a bound on the random-order model. With one token per stage, what is revealed of a row costs together
-log p of the sampler that reveals the most probable position first (`llada.eval.exact.ordered_log_likelihood`).

Which row a slot holds, its stage and, without a threshold, how much of it is visible are functions of seed and step: at
a step, slot b of B has had `S + order_b / B` rows, where S is the sum of 1/K over the steps before. So the slots are
spread evenly over the stages, also after K has grown, and the j-th row of slot b is the sample that is the b-th of step
j elsewhere. Which tokens are visible depends on the model, so that a checkpoint holds the masks.

Deviations from the authors' code: there, a row that the threshold has brought forward is replaced earlier, and may have
nothing masked for a step; and a pool begins anew when K changes.

Shapes: B rows of a micro-batch, L length, N masked positions.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from llada.train.batches import Batch, Batches, Place, Sample, asked, pad
from llada.train.noise import share_uniforms, slot_order
from llada.train.objective import lowest
from llada.train.objectives import Padded

# nats; where all of a row is masked, every position sees the same, and rounding alone, which depends on the
# micro-batch, would say what is revealed
_TIE = 2**-10


class Stages(NamedTuple):
    """The number of stages K: `first`, and after every `every` steps `add` more, up to `to`."""

    first: int
    add: int = 0
    every: int = 1
    to: int = 0

    def at(self, step: int) -> int:
        """K at a step, from 0."""
        return max(self.first, min(self.first + self.add * (step // self.every), self.to))

    def passed(self, step: int) -> Fraction:
        """How many rows a slot goes through before a step: the sum of 1/K over the steps before."""
        rows, begin = Fraction(0), 0
        while begin < step:
            K = self.at(begin)
            end = min(step, (begin // self.every + 1) * self.every) if self.to > K else step
            rows, begin = rows + Fraction(end - begin, K), end
        return rows


def still_masked(t: Tensor, lengths: Tensor) -> Tensor:
    """How many of so many maskable tokens are masked where a share t of them should be, (B,); at least one."""
    return lengths - torch.minimum(((1 - t) * lengths).round().long(), lengths - 1)


def reveal(masked: Tensor, confidences: Tensor, left: Tensor, threshold: float | None = None) -> Tensor:
    """What stays masked, bool (B, L): the least confident `left` positions of each row, or fewer.

    Args:
        masked: bool (B, L), at least one in each row.
        confidences: (N,), the largest log-probability at each masked position, row by row; of equal ones the leftmost
            is revealed first, and one that is not a number counts as the lowest.
        left: int (B,), at least 1.
        threshold: where the largest probability is above it is revealed, too, as long as one position stays.
    """
    score = masked.new_full(masked.shape, -math.inf, dtype=torch.float64)
    score[masked] = (confidences.double() / _TIE).round().nan_to_num(nan=-1e300)
    have = masked.sum(dim=1)
    count = (have - left).clamp(min=0)
    if threshold is not None:
        sure = torch.zeros_like(masked)
        sure[masked] = confidences > math.log(threshold)
        count = torch.maximum(count, sure.sum(dim=1)).minimum(have - 1)
    return masked & ~lowest(-score, masked, count)


class Pool:
    """Batches whose masks follow from what the model said of those before; `fit` takes it in the place of `Batches`.

    Every batch has to be told its confidences before the next step. Raises ValueError for stages that are not
    positive or cannot grow, and for a threshold that is no probability.
    """

    def __init__(self, batches: Batches, stages: Stages, threshold: float | None = None):
        if stages.first < 1 or stages.every < 1 or (stages.add and stages.to <= stages.first):
            raise ValueError(f"{stages}: first and every must be at least 1, and with add, to must be above first")
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"threshold={threshold} must lie between 0 and 1")
        self.batches, self.stages, self.threshold = batches, stages, threshold
        self._ahead = [Fraction(int(i), batches.batch_size) for i in slot_order(batches.noise.seed, batches.batch_size)]
        self._masked: dict[int, Tensor] = {}  # of the slots at `_step`, (length,)
        self._step = 0
        self._asked: dict[range, Padded] = {}  # the micro-batches of `_step`
        self._told: dict[range, Tensor] = {}
        self._samples: dict[int, tuple[int, Sample]] = {}  # of a slot, with its number in the slot
        # neighbouring rows of a slot and neighbouring epochs meet in a step
        self._places, self._visits = lru_cache(maxsize=2)(self._places_of), lru_cache(maxsize=2)(batches.visits)

    def row(self, place: Place) -> int:
        """Which row of the data set stands at a place."""
        return self.batches.row(place)

    def micro_batches(self, rank: int, processes: int, start: int, stop: int) -> Iterator[list[Batch]]:
        """For each step of start..stop-1, the micro-batches of this process.

        Raises ValueError for a later start than that of the masks it has, and RuntimeError where it was not told.
        """
        first, share, size = self.batches.shared(rank, processes)
        if start == 0:
            self.resume([], 0)
        for step in range(start, stop):
            self._settle()
            if self._step != step:
                raise ValueError(f"the masks of the pool are those of step {self._step}, not {step}; resume it there")
            slots = range(first, first + share)
            yield [self._batch(slots[i : i + size]) for i in range(0, share, size)]

    def masks(self) -> list[Tensor]:
        """What is masked at the step to come in each slot of this process, bool (length,); the state of a run."""
        self._settle()
        return [self._masked[slot] for slot in sorted(self._masked)]

    def resume(self, masks: list[Tensor], step: int) -> None:
        """Take the masks of all slots, which may be longer than the rows, at a step to come."""
        self._masked, self._step, self._asked, self._told = dict(enumerate(masks)), step, {}, {}

    def _batch(self, slots: range) -> Batch:
        """The rows in some slots as they are at this step."""
        step, noise = self._step, self.batches.noise
        numbers, before = ([number for number, _ in self._standings(slots, at)] for at in (step, step - 1))
        samples = [self._sample(slot, number) for slot, number in zip(slots, numbers, strict=True)]
        padded = pad(samples, noise, self._times(slots, step))
        left = still_masked(padded.t, padded.maskable.sum(dim=1))
        masked = lowest(padded.uniforms, padded.maskable, left)  # of a row that is new
        for i, length in enumerate(padded.real.sum(dim=1).tolist()):
            if step > 0 and numbers[i] == before[i]:
                masked[i, :length] = self._masked[slots[i]][:length]
        # dropout takes its keys from the uniforms: others at every step
        uniforms = share_uniforms(noise.seed, step, self.batches.batch_size)[slots.start : slots.stop]
        padded = padded._replace(masked=masked, uniforms=uniforms[:, None].expand(masked.shape))
        self._asked[slots] = padded
        places = [place for place, _ in samples]
        return asked(padded, places, noise, self.batches.objective, partial(self._told.__setitem__, slots))

    def _settle(self) -> None:
        """Reveal what the model was surest of at this step, and go to the next one."""
        if not self._asked:
            return
        if missing := self._asked.keys() - self._told.keys():
            raise RuntimeError(f"step {self._step} has not told the confidences of {len(missing)} micro-batches")
        held: dict[int, Tensor] = {}
        for slots, padded in self._asked.items():
            assert padded.masked is not None
            left = still_masked(self._times(slots, self._step + 1), padded.maskable.sum(dim=1))
            masked = reveal(padded.masked, self._told[slots].cpu(), left, self.threshold)  # sync
            lengths = padded.real.sum(dim=1).tolist()
            held |= {slot: row[:n].clone() for slot, row, n in zip(slots, masked, lengths, strict=True)}
        self._masked, self._step, self._asked, self._told = held, self._step + 1, {}, {}

    def _standings(self, slots: range, step: int) -> list[tuple[int, int]]:
        """How many rows each slot has had before the one of a step, and the stage of that."""
        passed, K = self.stages.passed(step), self.stages.at(step)
        return [(int(n), int(part * K)) for n, part in (divmod(passed + self._ahead[slot], 1) for slot in slots)]

    def _times(self, slots: range, step: int) -> Tensor:
        """The share of each row that should be masked at a step, float64 (B,) in (0, 1]."""
        stage = torch.tensor([stage for _, stage in self._standings(slots, step)], dtype=torch.float64)
        uniforms = share_uniforms(self.batches.noise.seed, step, self.batches.batch_size)[slots.start : slots.stop]
        return 1 - (stage + uniforms) / self.stages.at(step)

    def _sample(self, slot: int, number: int) -> Sample:
        """The so-manieth row of a slot."""
        if slot not in self._samples or self._samples[slot][0] != number:
            place = self._places(number)[slot]
            row = self.batches.rows[int(self._visits(place.epoch)[place.index])]
            self._samples[slot] = number, (place, row)
        return self._samples[slot][1]

    def _places_of(self, number: int) -> list[Place]:
        size = self.batches.batch_size
        return next(self.batches.places(0, size, size, number, number + 1))
