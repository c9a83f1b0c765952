"""What the commands that listen have in common: where, for whom, and how much they keep.

Knows words on the command line; must not know what is served.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable
from typing import Any

from localize.cli.shared import complain, say

MAX_PIXELS = 100_000_000
"""Fewer than on the command line: whoever sends pictures need not be whoever started the server."""


def add_listening(parser: argparse.ArgumentParser, port: int) -> None:
    """The options of a server. port: its own, unless another is asked for."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on, 0.0.0.0 for all; default: %(default)s, this machine alone",
    )
    parser.add_argument(
        "--port", type=int, default=port, help="0 for a free one; default: %(default)s"
    )
    parser.add_argument(
        "--token",
        default=os.environ.get("LOCALIZE_TOKEN"),
        help="what each request must bring; default: LOCALIZE_TOKEN from the environment, or none",
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=1000,
        metavar="MB",
        help="memory for encoded pictures, for further questions; default: %(default)s",
    )
    parser.add_argument(
        "--max-upload",
        type=float,
        default=32,
        metavar="MB",
        help="refuse larger requests and pictures; default: %(default)s",
    )


def check_listening(parsed: argparse.Namespace) -> None:
    """Raise ValueError for what makes no sense, before a model is loaded for it."""
    if not 0 <= parsed.port <= 65535:
        raise ValueError(f"--port must be in [0, 65535], not {parsed.port}")
    if parsed.token is not None and not parsed.token:
        raise ValueError("--token must not be empty; leave it out to ask for none")
    for name in ("keep", "max_upload"):
        if not 0 <= getattr(parsed, name) < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be a number of megabytes from 0 on")


def answer(
    parsed: argparse.Namespace,
    bound: socket.socket,
    make: Callable[[frozenset[str] | None], Any],
    greeting: Callable[[str], str],
) -> None:
    """Answer on a socket until it is to end.

    make: an application of the names that the server may be called by. greeting: the line to
    print once it answers, of its address.
    """
    from localize.serve import server

    address, port = bound.getsockname()[:2]
    alone = address in server.LOOPBACK
    if not alone and parsed.token is None:
        complain("anybody who reaches this machine can ask; --token keeps others out")
    app = make(server.LOOPBACK | {parsed.host.lower()} if alone else None)

    def tell() -> None:
        if not parsed.quiet:
            name = f"[{address}]" if ":" in address else address
            say(greeting(f"http://{name}:{port}"))

    server.serve(app, bound, tell)
