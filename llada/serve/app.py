"""The HTTP interface: OpenAI's names, server-sent events, limits, and an optional key."""

import asyncio
import hmac
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers import PreTrainedTokenizerBase

from llada import __version__
from llada.model.modeling import LLaDAForMaskedLM
from llada.sampling.config import SamplerConfig
from llada.serve.errors import RequestError
from llada.serve.formats import Chat, Text
from llada.serve.limits import Limits
from llada.serve.metrics import Metrics
from llada.serve.service import Service

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_PORT = re.compile(r":[0-9]*\Z")
_PATHS = ("/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions")


def make_app(
    model: LLaDAForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    sampler: SamplerConfig | None = None,
    limits: Limits | None = None,
    api_key: str | None = None,
    hosts: tuple[str, ...] = LOOPBACK,
) -> FastAPI:
    """An application for uvicorn that answers with this model, in a thread that runs while the application does.

    Args:
        name: what requests call the model.
        sampler: of requests that say nothing else; None: the default one.
        api_key: what `/v1` and `/metrics` ask for as a bearer token; None: nothing.
        hosts: names that clients may call the server by, so that no page of the web reaches it under a name of its own;
            "*": any.
    """
    service = Service(model, tokenizer, name, sampler or SamplerConfig(), limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="llada", version=__version__, lifespan=lifespan, openapi_url=None)
    app.state.close = service.close
    app.add_middleware(Gate, metrics=service.metrics, api_key=api_key, hosts=hosts)

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):  # no such path or method
            told = f"{request.method} {request.scope['path'][:200]}: {error.detail}"
            headers = None if error.headers is None else dict(error.headers)
            error = RequestError(error.status_code, told, headers=headers)
        return _refused(error if isinstance(error, RequestError) else RequestError(500, "the request failed"))

    for kind in (RequestError, HTTPException, Exception):
        app.add_exception_handler(kind, refused)

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> Response:
        return JSONResponse(
            {"status": "ok" if service.scheduler.alive else "dead"}, 200 if service.scheduler.alive else 503
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [service.card]})

    @app.get("/v1/models/{model_name:path}")
    async def one_model(model_name: str) -> Response:
        if model_name != name:
            raise RequestError(404, f"there is no model {model_name[:200]!r} here; it is {name!r}", param="model")
        return JSONResponse(service.card)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await service.answer(request, service.reader.completion, Text(name))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await service.answer(request, service.reader.chat, Chat(name))

    return app


def _refused(error: RequestError) -> Response:
    return JSONResponse(error.body, error.status, headers=error.headers)


class Gate:
    """Lets in who knows the key and calls the server by its name, and counts requests to the end of their answers."""

    def __init__(self, app: ASGIApp, metrics: Metrics, api_key: str | None, hosts: tuple[str, ...]):
        self._app, self._metrics, self._key, self._hosts = app, metrics, api_key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, started, status = scope["path"], time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        error = self._error(Request(scope))
        try:
            await (self._app if error is None else _refused(error))(scope, receive, watched)
        except Exception:
            status = status or 500  # which starlette answers, outside of this
            raise
        finally:
            known = path if path in _PATHS else "other"
            self._metrics.requests.labels(known, str(status)).inc()
            self._metrics.seconds.labels(known).observe(time.monotonic() - started)

    def _error(self, request: Request) -> RequestError | None:
        """Why a request is not let in."""
        host = request.headers.get("host", "")
        if "*" not in self._hosts and _PORT.sub("", host.lower()) not in self._hosts:
            return RequestError(421, f"this server is not called {host[:200]!r} but {' or '.join(self._hosts)}")
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        right = kind.lower() == "bearer" and hmac.compare_digest(given.encode(), (self._key or "").encode())
        if self._key is not None and not right and request.scope["path"] != "/health":
            return RequestError(
                401,
                "give the server's key in the header Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return None
