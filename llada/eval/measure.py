"""What a sampler does on a task: which answers are right, and what they cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from llada.eval.answers import answer
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
    """Answer every row of the task, once.

    The time is from text to text, in batches, after a batch that is not counted. A batch takes as long as its slowest
    row, so it depends on the batch size, as it does on what else the machine does; passes and positions do not.
    """
    answer(model, tokenizer, task.conversations[:batch_size], sampler, batch_size=batch_size, seed=seed)
    start = time.perf_counter()
    # texts and numbers are on the CPU when it returns, so a GPU has finished
    answers = answer(model, tokenizer, task.conversations, sampler, batch_size=batch_size, seed=seed)
    seconds = time.perf_counter() - start
    check = CHECKS[task.check]
    return Measurement(
        sampler,
        [check(given.text, expected) for given, expected in zip(answers, task.expected, strict=True)],
        [given.forward_passes for given in answers],
        [given.query_tokens for given in answers],
        [given.tokens for given in answers],
        seconds,
    )
