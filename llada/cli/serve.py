"""`llada serve`: other programs ask a trained model over HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from llada.cli.asking import Device, Fields, Sampler, load
from llada.cli.extras import needed
from llada.config import ConfigError, apply_overrides

_KEY = "LLADA_API_KEY"
PATIENCE = 5  # seconds in which answers that are told to end may be read
Limit = Annotated[list[str] | None, typer.Option("--limit", help="KEY=VALUE, e.g. seconds=30; see llada.serve.limits")]


def serve(
    model: Annotated[Path, typer.Argument(help="folder of a trained model")],
    sampler: Sampler = "low_confidence",
    set_: Fields = None,
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one", min=0, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option(help="what requests call the model; its path if not given")] = None,
    limit: Limit = None,
    api_key: Annotated[str | None, typer.Option(envvar=_KEY, help="bearer token that is asked for")] = None,
    device: Device = None,
) -> None:
    """Answer requests in the OpenAI format.

    llada serve runs/quickstart/sft/model --set gen_length=32 --port 8000
    """
    with needed("serve", "llada serve"):
        import uvicorn

        from llada.listening import Server, listen
        from llada.serve.app import LOOPBACK, make_app
    from llada.serve.limits import Limits

    key = _key(api_key)
    local = host in LOOPBACK or host == "::1"
    if not local and key is None:
        raise ConfigError(f"--host {host} can be reached from elsewhere; give an --api-key that is asked for")
    limits = Limits(**apply_overrides({}, limit or ()))
    address = listen(host, port)
    loaded = load(model, sampler, set_, device)
    hosts = LOOPBACK if local else ("*",)
    app = make_app(
        loaded.model,
        loaded.tokenizer,
        name=name or str(model),
        sampler=loaded.sampler,
        limits=limits,
        api_key=key,
        hosts=hosts,
    )

    class Closing(Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.to_thread(app.state.close)  # those who wait are told so, for whom it would wait
            await super().shutdown(sockets)

    settings = uvicorn.Config(
        app,
        log_level="info",
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=PATIENCE,
    )
    with suppress(KeyboardInterrupt):  # Ctrl-C, after what is running was told so
        Closing(settings).run([address])


def _key(given: str | None) -> str | None:
    """The key of the option or of the environment, where an empty one is none to typer. Raises ConfigError."""
    key = os.environ.get(_KEY) if given is None else given
    if key is None:
        return None
    if not key:
        raise ConfigError(f"the API key is empty; give one with --api-key or {_KEY}, or leave both out")
    unclear = next((letter for letter in key if not (letter.isascii() and letter.isprintable())), None)
    if unclear is not None:
        raise ConfigError(f"the API key holds {unclear!r}, which clients send in different ways; use printable ASCII")
    if key != key.strip():
        raise ConfigError("the API key begins or ends with a blank, which no header can; leave it out")
    return key
