"""From what the scheduler tells to text: the answers to one request, as they grow."""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from llada.data.chat import TextStream
from llada.serve.protocol import Request
from llada.serve.scheduler import Job, Progress, Scheduler


class Piece(NamedTuple):
    """What is new in one of the answers."""

    number: int  # of the answer
    text: str
    finish_reason: Literal["stop", "length"] | None  # None: there is more to come


class Choice:
    """One answer as it grows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: list[str]):
        self._ids: list[int] = []  # up to and with the one that ended it
        self.forward_passes = 0
        self.query_tokens = 0
        self.finish_reason: Literal["stop", "length"] | None = None
        self._tokenizer, self._stream, self._stops = tokenizer, TextStream(tokenizer), stops
        self._text, self._given = "", 0  # what is certain, and how much of it was given out

    @property
    def tokens(self) -> int:
        return len(self._ids)

    def add(self, progress: Progress) -> str:
        """What is new in its text."""
        self.forward_passes, self.query_tokens = progress.forward_passes, progress.query_tokens
        before = self.tokens
        self._ids += progress.ids
        text = self._text + self._stream.add(progress.ids)
        if self._stopped(text):
            self._ids = self._ids[: self._first_stopped(before)]
            text = TextStream(self._tokenizer).add(self._ids)
        if self._settle(text):
            return self._new(len(self._text))
        if progress.finish is None:
            return self._new(len(self._text) - begun(self._text, self._stops))
        self._settle(self._text + self._stream.end())
        self.finish_reason = self.finish_reason or progress.finish
        return self._new(len(self._text))

    def _stopped(self, text: str) -> bool:
        return any(stop in text for stop in self._stops)

    def _first_stopped(self, before: int) -> int:
        """The fewest tokens, more than `before`, whose text holds a stop text; that of all of them does."""

        def stopped(count: int) -> bool:
            return self._stopped(TextStream(self._tokenizer).add(self._ids[:count]))

        return bisect_left(range(len(self._ids)), True, lo=before + 1, key=stopped)

    def _settle(self, text: str) -> bool:
        """Whether the text that is certain now holds a stop text, at which it is cut."""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        self._text = text[: min(places, default=None)]
        if places:
            self.finish_reason = "stop"
        return bool(places)

    def _new(self, end: int) -> str:
        new = self._text[self._given : end]
        self._given += len(new)
        return new


class Reply:
    """The answers to a request. `cancel` must be called in the end, whatever happened."""

    def __init__(self, request: Request, tokenizer: PreTrainedTokenizerBase, scheduler: Scheduler):
        """Asks for the answers. Raises as `Scheduler.submit`."""
        self.request = request
        self.choices = [Choice(tokenizer, request.stops) for _ in request.asked]
        self._told: asyncio.Queue[tuple[int, Progress]] = asyncio.Queue()
        loop, follow = asyncio.get_running_loop(), request.stream or bool(request.stops)

        def teller(index: int) -> Callable[[Progress], None]:
            def tell(progress: Progress) -> None:
                loop.call_soon_threadsafe(self._told.put_nowait, (index, progress))

            return tell

        self._jobs = [Job(asked, teller(index), follow) for index, asked in enumerate(request.asked)]
        scheduler.submit(self._jobs)

    def cancel(self) -> None:
        """Nobody waits any more."""
        for job in self._jobs:
            job.cancelled = True

    async def pieces(self, deadline: float) -> AsyncIterator[Piece]:
        """What is new, as it comes, to the end of all answers.

        Raises what made one of them fail, and TimeoutError where there is nothing new at the deadline (of the loop's
        clock).
        """
        while any(choice.finish_reason is None for choice in self.choices):
            async with asyncio.timeout_at(deadline):  # not around the yield, where others wait
                index, progress = await self._told.get()
            if progress.error is not None:
                raise progress.error
            choice = self.choices[index]
            if choice.finish_reason is None:
                yield Piece(index, choice.add(progress), choice.finish_reason)
            if choice.finish_reason is not None:
                self._jobs[index].cancelled = True

    @property
    def written(self) -> int:
        """Tokens of the answers; of one that was given up, those that were settled."""
        pairs = zip(self.choices, self._jobs, strict=True)
        return sum(len(job.ids) if choice.finish_reason is None else choice.tokens for choice, job in pairs)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens in the sense of the OpenAI interface: those of each prompt once, those of answers up to their ends."""
        answered, prompt = sum(choice.tokens for choice in self.choices), self.request.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": answered, "total_tokens": prompt + answered}

    @property
    def cost(self) -> dict[str, Any]:
        """What each answer took, and the seed that gives them again."""
        return {
            "seed": self.request.seed,
            "forward_passes": [choice.forward_passes for choice in self.choices],
            "query_tokens": [choice.query_tokens for choice in self.choices],
        }


def begun(text: str, stops: list[str]) -> int:
    """How many characters at the end of the text may be the beginning of a stop text."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    lengths = range(min(longest, len(text)), 0, -1)
    return next((n for n in lengths if any(stop.startswith(text[-n:]) for stop in stops)), 0)
