"""Processes that answer together: the first one is asked and hands out shares, the others wait for theirs.

The first alone reads the tasks, draws their examples, computes their metrics and runs code, so that none of it depends
on how many processes there are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from llada.eval.arguments import Settings
from llada.eval.processes import Processes, sendable
from llada.eval.respond import WorkKind, answer
from llada.eval.responses import Response, Responses
from llada.model.modeling import LLaDAForMaskedLM


class Work(NamedTuple):
    """What is handed out: every process takes its share of it."""

    kind: WorkKind
    asked: dict[str, Any]  # by the keys of the responses
    settings: Settings


class Crew:
    """A model in each of several processes, or in this one alone, and what they have answered."""

    def __init__(
        self,
        model: LLaDAForMaskedLM,
        tokenizer: PreTrainedTokenizerBase,
        responses: Responses,
        processes: Processes,
        *,
        watched: bool = True,
    ):
        """Args: watched: whether the first process shows how far it is."""
        self.model, self.tokenizer, self.responses = model.eval(), tokenizer, responses
        self._processes, self._watched = processes, watched

    def answer(self, work: Work) -> None:
        """Have it answered by all processes; the first, which calls this, then knows all responses.

        Raises what went wrong in any of them; what was answered before that is kept.
        """
        if work.asked:
            self._processes.broadcast_object(work)
            outcomes, own = self._share(work)
            if own is not None:
                raise own
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
                self.responses.update(outcome)

    @contextmanager
    def leading(self) -> Iterator[None]:
        """What the first process does while the others `serve`; they end as it does."""
        try:
            yield
        except Exception as error:
            self._processes.broadcast_object(sendable(error))
            raise
        self._processes.broadcast_object(None)

    def serve(self) -> None:
        """What the other processes do, until the first one has all it wants. Raises what it says went wrong."""
        own: Exception | None = None
        while (told := self._processes.broadcast_object(None)) is not None:
            if isinstance(told, Exception):
                raise told from own  # which alone says where it was
            _, own = self._share(told)

    def _share(self, work: Work) -> tuple[list[dict[str, Response] | Exception], Exception | None]:
        """Answer what is this process's: at the first what all found or what went wrong there; what went wrong here."""
        mine = dict(list(work.asked.items())[self._processes.rank :: self._processes.count])
        shown = self._watched and self._processes.rank == 0
        found: dict[str, Response] = {}
        own: Exception | None = None
        with tqdm(total=len(mine), unit=f" {work.kind}", disable=None if shown else True) as bar:

            def keep(key: str, response: Response) -> None:
                self.responses.add(key, response)
                found[key] = response
                bar.update()

            try:
                answer(work.kind, self.model, self.tokenizer, mine, work.settings, keep)
            except Exception as error:
                own = error
        return self._processes.gather_object(found if own is None else sendable(own)), own
