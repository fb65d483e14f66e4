"""Servers at an address that is taken before anything is loaded, so that one in use is told at once."""

import logging
import socket

import uvicorn

from llada.config import ConfigError

log = logging.getLogger("uvicorn.error")


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address, for `Server.run`, of a host with several at that of IPv4; who asks before waits.

    Raises ConfigError where that cannot be had.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(addresses)  # IPv4 has the smaller number
        taken = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the latter from idna, for a label that is empty or too long
        why = error.strerror if isinstance(error, OSError) else "no host can have this name"
        raise ConfigError(f"host {host!r}: {why}; give the name or an address of this machine") from None
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a server that has ended a moment ago
        taken.bind(address)
        taken.listen()  # until then, another one could be bound to the same port
    except OSError as error:
        taken.close()
        raise ConfigError(
            f"{host} port {port}: {error.strerror}; give another --port, or --port 0 for a free one"
        ) from None
    return taken


class Server(uvicorn.Server):
    """One that tells where it is, which uvicorn does only of sockets that it has made itself."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            host, port = each.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("Uvicorn running on http://%s:%d (Press CTRL+C to quit)", shown, port)
