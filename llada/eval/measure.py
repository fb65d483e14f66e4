"""What a sampler, or any model that answers, does on a task: which answers are right, and what they cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from llada.eval.answers import Answer, Messages, answer
from llada.eval.checks import CHECKS
from llada.eval.task import Task
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig


@dataclass(frozen=True)
class Measurement:
    """Answers to N rows."""

    sampler: SamplerConfig
    right: list[bool]  # (N,)
    forward_passes: list[int]  # (N,) calls of the network that the row took part in, one after another
    query_tokens: list[int]  # (N,) positions that were computed in them
    tokens: list[int]  # (N,) generated, up to and with the first EOS
    seconds: float  # for all rows

    def accuracy(self, rows: Sequence[int]) -> float:
        """Share of right answers among these rows."""
        return sum(self.right[i] for i in rows) / len(rows)

    @property
    def passes_per_answer(self) -> float:
        return sum(self.forward_passes) / len(self.right)

    @property
    def positions_per_answer(self) -> float:
        return sum(self.query_tokens) / len(self.right)

    @property
    def seconds_per_answer(self) -> float:
        return self.seconds / len(self.right)

    @property
    def tokens_per_second(self) -> float:
        return sum(self.tokens) / self.seconds


def measure(
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    sampler: SamplerConfig,
    *,
    batch_size: int = 64,
    seed: int = 0,
) -> Measurement:
    """Answer every row of the task, once; `timed` says what the time is."""
    reply = partial(answer, model, tokenizer, sampler=sampler, batch_size=batch_size, seed=seed)
    return Measurement(sampler, *timed(reply, task, batch_size))


class Timed(NamedTuple):
    """Answers to N rows: columns of a `Measurement`."""

    right: list[bool]
    forward_passes: list[int]
    query_tokens: list[int]
    tokens: list[int]
    seconds: float


def timed(reply: Callable[[Sequence[Messages]], list[Answer]], task: Task, batch_size: int) -> Timed:
    """The answers to all rows of the task, given in batches.

    The time is from text to text, after a batch that is not counted. A batch takes as long as its slowest row, so it
    depends on the batch size, as it does on what else the machine does; passes and positions do not.
    """
    reply(task.conversations[:batch_size])
    start = time.perf_counter()
    answers = reply(task.conversations)  # texts and numbers are on the CPU when it returns, so a GPU has finished
    seconds = time.perf_counter() - start
    check = CHECKS[task.check]
    return Timed(
        [check(given.text, expected) for given, expected in zip(answers, task.expected, strict=True)],
        [given.forward_passes for given in answers],
        [given.query_tokens for given in answers],
        [given.tokens for given in answers],
        seconds,
    )
