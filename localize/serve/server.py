"""The server process: sockets, signals and its end.

Knows uvicorn; must not know what is served.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

KEEP_ALIVE_SECONDS = 75
"""After so long without a request a connection is closed. With a few seconds, as uvicorn has them,
people's next question often meets the closing of the connection that it is sent on."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to a name or address; port 0 takes a free one. Raises OSError in words."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        if os.name == "posix":  # where it means that a port is free as soon as its server is gone
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise OSError(f"cannot listen on {host}, port {port}: {reason}") from None
    return bound


def serve(app: Any, bound: socket.socket, started: Callable[[], None]) -> None:
    """Answer until SIGTERM or Ctrl-C, then finish the requests that are there.

    started: called once connections are taken. A second Ctrl-C does not wait.
    """
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _Server(configured(app), started).run(sockets=[bound])


def configured(app: Any) -> uvicorn.Config:
    """How uvicorn is to serve an application."""
    return uvicorn.Config(
        app,
        port=0,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]):
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signals once more when all is finished; here that is the end."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
