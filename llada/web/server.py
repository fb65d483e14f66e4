"""The page as a server of this machine alone, which ends at Ctrl-C although pages are open."""

import signal
import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from llada.listening import Server

ADDRESS = "127.0.0.1"
PATIENCE = 2  # seconds in which a step that is running may end


class _Server(Server):
    def __init__(self, settings: uvicorn.Config, app: FastAPI):
        super().__init__(settings)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.end_streams()  # open pages keep a connection, for which it would wait
        await super().shutdown(sockets)


def run(app: FastAPI, address: socket.socket) -> None:
    """Serve the app until Ctrl-C or SIGTERM, neither of which ends the program: what follows can tidy up.

    The address is one of `llada.listening.listen`.
    """
    settings = uvicorn.Config(app, timeout_graceful_shutdown=PATIENCE, access_log=False)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it again in the end
    try:
        with suppress(KeyboardInterrupt):
            _Server(settings, app).run([address])
    finally:
        signal.signal(signal.SIGTERM, before)
