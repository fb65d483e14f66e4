"""Answers in batches: one thread asks the model, all others wait for what it tells.

What is asked for with equal samplers is generated together, in the order of arrival; each answer has the random numbers
of its own seed, so that its neighbours change nothing in it but the rounding of float sums.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llada.eval.answers import left_padded
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generation_states, growing_states, infill_states
from llada.sampling.predictors import Meter
from llada.sampling.request import end_tokens
from llada.sampling.streaming import settled_tokens
from llada.serve.protocol import Asked

STOPPING = "the server is stopping"
log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How far an answer is; of one that is followed, the first one comes after the first call, also without tokens."""

    ids: list[int]  # its tokens after those that were told before, which do not change any more
    finish: Literal["stop", "length"] | None  # why it is complete; None: it is not
    forward_passes: int  # calls of the network so far that it took part in
    query_tokens: int  # positions that were computed in them
    error: Exception | None = None  # why there will be no more


class FullError(Exception):
    """So many answers are waited for that another one is not taken."""


@dataclass(eq=False)
class Job:
    """An answer that is asked for, and who is told of it, from the thread that asks the model."""

    asked: Asked
    tell: Callable[[Progress], None]
    follow: bool = False  # whether anything is told before the end
    cancelled: bool = False  # nobody waits for it any more
    begun: bool = False  # something was told
    done: bool = False
    ids: list[int] = field(default_factory=list)  # that are settled
    told: int = 0  # of them

    @property
    def kind(self) -> tuple[SamplerConfig, int, int, int]:
        """Jobs of one kind go into one batch: those that continue a text, or fill gaps of one size at one place."""
        asked = self.asked
        if asked.suffix is None:
            return asked.sampler, -1, -1, -1
        return asked.sampler, len(asked.prompt), asked.most, len(asked.suffix)


class Scheduler:
    """A queue of jobs and the thread that does them; `close` ends it."""

    def __init__(self, model: LLaDAForMaskedLM, pad_token_id: int, *, batch: int, waiting: int, gather: float = 0.0):
        self._model, self._pad, self._batch, self._most, self._gather = model, pad_token_id, batch, waiting, gather
        self._ends = end_tokens(model)
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.running = 0  # answers in the batch of this moment
        self.batches = 0
        self.forward_passes = 0  # calls of the network, summed over answers, also those that were given up
        self._thread = threading.Thread(target=self._work, name="llada scheduler", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that are not begun."""
        return sum(not job.cancelled for job in list(self._queue))

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, jobs: list[Job]) -> None:
        """Put all of them in the queue, or none: FullError where there is no room, InterruptedError after `close`."""
        with self._changed:
            self._check_open()
            self._queue = deque(job for job in self._queue if not job.cancelled)
            waiting = self.waiting
            if waiting + len(jobs) > self._most:
                raise FullError(f"{waiting} answers are waited for already, of {self._most} at most; ask again later")
            self._queue.extend(jobs)
            self._changed.notify()

    def close(self) -> None:
        """Stop at the next step; what is not done is told so."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for job in self._queue:
            _fail(job, InterruptedError(STOPPING))

    def _check_open(self) -> None:
        if self._closed:
            raise InterruptedError(STOPPING)

    def _work(self) -> None:
        while batch := self._next():
            self.running, self.batches = len(batch), self.batches + 1
            self._do(batch)
            self.running = 0

    def _next(self) -> list[Job]:
        """The oldest job and what goes with it; empty once the scheduler is closed."""
        with self._changed:
            live: list[Job] = []
            while not live:
                self._changed.wait_for(lambda: self._closed or self._queue)
                self._changed.wait_for(lambda: self._closed or len(self._queue) >= self._batch, self._gather)
                if self._closed:
                    return []
                live = [job for job in self._queue if not job.cancelled]
                self._queue = deque(live)
            kind = live[0].kind  # of the oldest one, so that none waits for ever
            batch = [job for job in live if job.kind == kind][: self._batch]
            begun = set(batch)
            self._queue = deque(job for job in live if job not in begun)
            return batch

    def _do(self, batch: list[Job]) -> None:
        """Generate the answers; if that fails, one by one, so that none fails for what another one asks."""
        try:
            self._generate(batch)
        except InterruptedError as error:
            for job in batch:
                _fail(job, error)
        except Exception as error:
            if len(batch) > 1:
                log.warning("%d answers together failed (%s), and are tried one by one", len(batch), error)
                for job in batch:
                    if not (job.cancelled or job.done):
                        self._do([job])
                return
            if not isinstance(error, ValueError):
                log.exception("an answer failed")
            _fail(batch[0], error)

    @torch.no_grad()
    def _generate(self, batch: list[Job]) -> None:
        self._check_open()
        sampler, suffix = batch[0].asked.sampler, batch[0].asked.suffix
        if sampler.longest is not None:
            for job in batch:
                self._grow(job)
            return
        given = [_given(job.asked, self._model.config.mask_token_id) for job in batch]
        canvas, padding = (part.to(self._model.device) for part in left_padded(given, self._pad))
        start = canvas.shape[1] if suffix is None else len(batch[0].asked.prompt)
        seeds = torch.tensor([job.asked.seed for job in batch])
        rows = torch.tensor([job.asked.row for job in batch])
        how = (self._model, canvas, padding, sampler, seeds)
        meter, before = Meter.of(canvas), self.forward_passes
        states_of = generation_states if suffix is None else infill_states
        for state in states_of(*how, first_row=rows, meter=meter):
            canvas = state.canvas
            self.forward_passes = before + int(meter.evaluations.sum())  # sync
            settled = settled_tokens(state, sampler, self._model.config.mask_token_id, start)
            self._tell(batch, canvas[:, start:], settled, meter)
            self._check_open()
            if all(job.cancelled or job.done for job in batch):
                return
        self._finish(batch, canvas[:, start:], meter)

    def _grow(self, job: Job) -> None:
        """Generate an answer that finds its own length, and so has a canvas of its own."""
        if job.cancelled:
            return
        asked, before = job.asked, self.forward_passes
        prompt = torch.tensor([asked.prompt], dtype=torch.long, device=self._model.device)
        meter, sequence = Meter.of(prompt), prompt[0]
        for grown in growing_states(self._model, prompt, asked.sampler, asked.seed, first_row=asked.row, meter=meter):
            sequence = grown.sequence
            self.forward_passes = before + int(meter.evaluations)  # sync
            self._tell([job], prompt[:, :0], torch.zeros(1, dtype=torch.long), meter)  # that it has begun
            self._check_open()
            if job.cancelled:
                return
        self._finish([job], sequence[None, prompt.shape[1] :], meter)

    def _finish(self, batch: list[Job], ids: Tensor, meter: Meter) -> None:
        """Tell everybody the whole answer (B, L)."""
        self._tell(batch, ids, torch.full((len(batch),), ids.shape[1]), meter, done=True)

    def _tell(self, batch: list[Job], ids: Tensor, settled: Tensor, meter: Meter, *, done: bool = False) -> None:
        """Tell everybody whose answer (B, L) has grown, to so many tokens (B,), or is complete."""
        passes, queries = meter.evaluations.tolist(), meter.query_tokens.tolist()
        for row, (job, count) in enumerate(zip(batch, settled.tolist(), strict=True)):
            new = ids[row, len(job.ids) : min(count, job.asked.most)].tolist()
            ended = next((place for place, token in enumerate(new, 1) if token in self._ends), None)
            first = job.follow and not job.begun
            if job.cancelled or job.done or not (new or done or first):
                continue
            job.begun = True
            job.ids += new[:ended]
            whole = len(job.ids) == job.asked.most
            finish = "stop" if ended is not None or (done and not whole) else "length" if whole else None
            job.done = finish is not None
            if job.follow or job.done:
                job.tell(Progress(job.ids[job.told :], finish, passes[row], queries[row]))
                job.told = len(job.ids)


def _given(asked: Asked, mask_token_id: int) -> list[int]:
    """What a sampler begins with: the prompt, and where a gap is to be filled that and what follows it."""
    return asked.prompt if asked.suffix is None else asked.prompt + [mask_token_id] * asked.most + asked.suffix


def _fail(job: Job, error: Exception) -> None:
    if not job.cancelled and not job.done:
        job.done = True
        job.tell(Progress([], None, 0, 0, error))
