"""One model that answers requests: reading them, waiting for the answers, and giving up."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

from fastapi import Request as HTTPRequest
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect
from transformers import PreTrainedTokenizerBase

from llada.eval.answers import padding_token
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.sampling.request import end_tokens
from llada.serve.errors import RequestError
from llada.serve.events import EventStream, event
from llada.serve.formats import Format
from llada.serve.limits import Limits
from llada.serve.metrics import Metrics
from llada.serve.protocol import Reader, Request
from llada.serve.replies import Piece, Reply
from llada.serve.scheduler import STOPPING, FullError, Scheduler

T = TypeVar("T")


class Service:
    """What the routes share."""

    def __init__(
        self,
        model: LLaDAForMaskedLM,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        sampler: SamplerConfig,
        limits: Limits,
    ):
        sampler.check_lengths()
        self._limits, self._tokenizer = limits, tokenizer
        ends, mask, context = end_tokens(model), model.config.mask_token_id, model.config.max_position_embeddings
        self.reader = Reader(name, deepcopy(tokenizer), mask, ends, context, sampler, limits)
        self.reader.check()
        pad = padding_token(model, tokenizer)
        self.scheduler = Scheduler(model, pad, batch=limits.batch, waiting=limits.waiting, gather=limits.gather)
        self.metrics = Metrics(self.scheduler)
        # prompts may be long, and the reader's tokenizer must not be used by two threads at once
        self._reading = ThreadPoolExecutor(1, "llada reader")
        self.card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "llada"}

    def close(self) -> None:
        """End what is running, and tell those who wait."""
        self._reading.shutdown(wait=False, cancel_futures=True)
        self.scheduler.close()

    async def answer(self, http: HTTPRequest, read: Callable[[object, int], Request], format: Format) -> Response:
        """The answer to a request, or the beginning of a stream. Raises RequestError."""
        loop, seed = asyncio.get_running_loop(), secrets.randbits(53)  # as many as numbers of JavaScript hold
        deadline = loop.time() + self._limits.seconds
        try:
            async with self._within(deadline, 408, "the request did not come within {} seconds"):
                body = await self._body(http)
        except ClientDisconnect:
            return _unread()
        async with self._within(deadline, 503, "others were read for {} seconds before the request; ask again later"):
            request = await self._read(read, body, seed)
        try:
            reply = Reply(request, self._tokenizer, self.scheduler)
        except FullError as full:
            raise RequestError(429, str(full), headers={"Retry-After": "1"}) from None
        except InterruptedError as stopping:
            raise RequestError(503, str(stopping)) from None
        pieces = self._pieces(reply, deadline)
        begun = False
        try:
            if not request.stream:
                return JSONResponse(await _unless_left(http, self._whole(reply, format, pieces)))
            first = await _unless_left(http, anext(pieces))  # what the sampler refuses has a status of its own
            begun = True
            return EventStream(self._events(reply, format, first, pieces), deadline, partial(self._end, reply))
        except ClientDisconnect:
            return _unread()
        finally:
            if not begun:
                self._end(reply)

    async def _whole(self, reply: Reply, format: Format, pieces: AsyncIterator[Piece]) -> dict[str, Any]:
        texts = [text or "" for text in reply.request.prompts]
        async for piece in pieces:
            texts[piece.number] += piece.text
        return format.complete(reply, texts)

    async def _events(
        self, reply: Reply, format: Format, first: Piece, others: AsyncIterator[Piece]
    ) -> AsyncIterator[str]:
        """Server-sent events. An error, once they have begun, is one of them, and the last."""
        try:
            for index in range(len(reply.choices)):
                yield event(format.begin(reply, index))
            if first.text or first.finish_reason:
                yield event(format.go_on(reply, first))
            async for piece in others:
                if piece.text or piece.finish_reason:
                    yield event(format.go_on(reply, piece))
            if reply.request.include_usage:
                yield event(format.end(reply))
            yield "data: [DONE]\n\n"
        except RequestError as error:
            yield event(error.body)

    async def _pieces(self, reply: Reply, deadline: float) -> AsyncIterator[Piece]:
        """What is new, until the deadline. Raises RequestError for all that goes wrong."""
        try:
            async for piece in reply.pieces(deadline):
                yield piece
        except TimeoutError:
            raise RequestError(504, f"there was no answer within {self._limits.seconds:g} seconds") from None
        except ValueError as error:
            raise RequestError(400, str(error)) from None
        except InterruptedError as error:
            raise RequestError(503, str(error)) from None
        except Exception as error:
            raise RequestError(500, f"the answer failed ({type(error).__name__}); the log says more") from error

    def _end(self, reply: Reply) -> None:
        reply.cancel()
        self.metrics.count(reply)

    @asynccontextmanager
    async def _within(self, deadline: float, status: int, message: str) -> AsyncIterator[None]:
        """Raise RequestError with this status where what is done in it has not ended at the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise RequestError(status, message.format(f"{self._limits.seconds:g}")) from None

    async def _read(self, read: Callable[[object, int], Request], body: object, seed: int) -> Request:
        """What a body asks for, read in a thread."""
        try:
            reading = self._reading.submit(read, body, seed)
        except RuntimeError:  # after `close`
            raise RequestError(503, STOPPING) from None
        try:
            return await asyncio.wrap_future(reading)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RequestError(503, STOPPING) from None  # `close` has cancelled the reading, nobody the request

    async def _body(self, http: HTTPRequest) -> object:
        """The JSON that was sent."""
        kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what a page of the web may send without being asked is something else
            raise RequestError(415, f"the content type is {kind[:100]!r}; send application/json")
        most, sent = self._limits.body_bytes, bytearray()
        async for part in http.stream():
            sent += part
            if len(sent) > most:
                raise RequestError(413, f"the body has more than {most} bytes, the most that this server takes")
        try:
            return json.loads(sent)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"the body is no JSON: {str(error)[:200]}") from None


def _unread() -> Response:
    """To a client that has gone."""
    return Response(status_code=499)


async def _unless_left(http: HTTPRequest, answer: Awaitable[T]) -> T:
    """The answer. Raises ClientDisconnect, and gives it up, once nobody waits for it any more."""
    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_left(http))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        for task in (answering, leaving):
            task.cancel()


async def _left(http: HTTPRequest) -> None:
    """Wait until the client has gone."""
    while not await http.is_disconnected():
        await asyncio.sleep(0.05)
