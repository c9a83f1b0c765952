"""`localize serve`: answer annotation tools, and others, over HTTP.

Knows words on the command line; must not know algorithms nor protocols.
"""

from __future__ import annotations

import argparse
import os

from localize.cli.shared import (
    DONE,
    Commands,
    add_model,
    add_options,
    complain,
    make_localizer,
    options_of,
    say,
)

MAX_PIXELS = 100_000_000
"""Fewer than on the command line: whoever sends pictures need not be whoever started the server."""


def add(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve", help="answer Label Studio, X-AnyLabeling and plain requests over HTTP"
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on, 0.0.0.0 for all; default: %(default)s, this machine alone",
    )
    serve.add_argument(
        "--port", type=int, default=9090, help="0 for a free one; default: %(default)s"
    )
    serve.add_argument(
        "--token",
        default=os.environ.get("LOCALIZE_TOKEN"),
        help="what each request must bring; default: LOCALIZE_TOKEN from the environment, or none",
    )
    serve.add_argument(
        "--local-files",
        metavar="FOLDER",
        help="Label Studio's LOCAL_FILES_DOCUMENT_ROOT; pictures of tasks are read below it",
    )
    serve.add_argument(
        "--label-studio",
        metavar="ADDRESS",
        help="of the Label Studio that uploads are fetched from, as http://localhost:8080, with "
        "LABEL_STUDIO_API_KEY from the environment",
    )
    serve.add_argument(
        "--allow-host",
        nargs="+",
        action="extend",
        default=[],
        metavar="HOST",
        help="fetch pictures from HOST or HOST:PORT where a task says so; default: from nowhere",
    )
    serve.add_argument(
        "--keep",
        type=float,
        default=1000,
        metavar="MB",
        help="memory for encoded pictures, for further questions; default: %(default)s",
    )
    serve.add_argument(
        "--max-upload",
        type=float,
        default=32,
        metavar="MB",
        help="refuse larger requests and pictures; default: %(default)s",
    )
    add_model(serve)
    add_options(serve)
    serve.set_defaults(run=run, max_pixels=MAX_PIXELS)


def run(parsed: argparse.Namespace) -> int:
    options = options_of(parsed)
    _check(parsed)
    try:
        from localize.serve import app, desk, pictures, server
    except ImportError as error:
        raise ImportError(
            f"serve needs the extra 'app' ({error}): pip install 'clip-localize[app]'"
        ) from error
    allowed = pictures.Pictures(
        max_bytes=int(parsed.max_upload * 1e6),
        folder=parsed.local_files,
        places=pictures.places(parsed.allow_host),
        label_studio=parsed.label_studio,
        label_studio_key=os.environ.get("LABEL_STUDIO_API_KEY"),
    )
    with server.listen(parsed.host, parsed.port) as bound:
        localizer = make_localizer(parsed, options)
        answers = desk.Desk(localizer, parsed.keep)
        answers.warm_up()
        address, port = bound.getsockname()[:2]
        alone = address in server.LOOPBACK
        if not alone and parsed.token is None:
            complain("anybody who reaches this machine can ask; --token keeps others out")
        hosts = server.LOOPBACK | {parsed.host.lower()} if alone else None
        served = app.make_app(answers, allowed, token=parsed.token, hosts=hosts)

        def tell() -> None:
            if not parsed.quiet:
                name = f"[{address}]" if ":" in address else address
                say(f"{localizer.model} answers at http://{name}:{port}; Ctrl-C ends it.")

        server.serve(served, bound, tell)
        answers.close()
    if not parsed.quiet:
        say("Stopped; every request that had come is answered.")
    return DONE


def _check(parsed: argparse.Namespace) -> None:
    """Raise ValueError for what makes no sense, before a model is loaded for it."""
    if not 0 <= parsed.port <= 65535:
        raise ValueError(f"--port must be in [0, 65535], not {parsed.port}")
    if parsed.token is not None and not parsed.token:
        raise ValueError("--token must not be empty; leave it out to ask for none")
    for name in ("keep", "max_upload"):
        if not 0 <= getattr(parsed, name) < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be a number of megabytes from 0 on")
    if parsed.local_files is not None and not os.path.isdir(parsed.local_files):
        raise ValueError(f"--local-files: {parsed.local_files} is no folder")
    if parsed.label_studio is not None and not parsed.label_studio.startswith(
        ("http://", "https://")
    ):
        raise ValueError(
            "--label-studio must be an address, as http://localhost:8080, "
            f"not {parsed.label_studio}"
        )
