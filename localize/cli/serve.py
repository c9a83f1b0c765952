"""`localize serve`: answer annotation tools, and others, over HTTP.

Knows words on the command line; must not know algorithms nor protocols.
"""

from __future__ import annotations

import argparse
import os

from localize.cli.listening import MAX_PIXELS, add_listening, answer, check_listening
from localize.cli.shared import (
    DONE,
    Commands,
    add_model,
    add_options,
    make_localizer,
    options_of,
    say,
)

PORT = 9090


def add(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve", help="answer Label Studio, X-AnyLabeling and plain requests over HTTP"
    )
    add_listening(serve, PORT)
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
        answer(
            parsed,
            bound,
            lambda hosts: app.make_app(answers, allowed, token=parsed.token, hosts=hosts),
            lambda address: f"{localizer.model} answers at {address}; Ctrl-C ends it.",
        )
        answers.close()
    if not parsed.quiet:
        say("Stopped; every request that had come is answered.")
    return DONE


def _check(parsed: argparse.Namespace) -> None:
    """Raise ValueError for what makes no sense, before a model is loaded for it."""
    check_listening(parsed)
    if parsed.local_files is not None and not os.path.isdir(parsed.local_files):
        raise ValueError(f"--local-files: {parsed.local_files} is no folder")
    if parsed.label_studio is not None and not parsed.label_studio.startswith(
        ("http://", "https://")
    ):
        raise ValueError(
            "--label-studio must be an address, as http://localhost:8080, "
            f"not {parsed.label_studio}"
        )
