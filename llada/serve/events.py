"""Streams of server-sent events that end whether or not they are read."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

GRACE = 1.0  # seconds after the deadline in which a client may read that it has come


class EventStream(StreamingResponse):
    """Events up to a deadline, of the loop's clock; `end` is called afterwards, also if none of them was sent."""

    def __init__(self, events: AsyncIterator[str], deadline: float, end: Callable[[], None]):
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._deadline, self._end = deadline, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # a client that reads no more blocks `send`; a server that stops cancels what has not come to its end
            with suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout_at(self._deadline + GRACE):
                    await super().__call__(scope, receive, send)
        finally:
            self._end()


def event(data: dict[str, Any]) -> str:
    """One event."""
    return f"data: {json.dumps(data)}\n\n"
