"""The program: one parser, its commands, and what ends them.

Knows exit codes, signals and warnings; must not know what the commands do.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from localize import __version__
from localize.cli import app, bench, demo, detect, evaluate, index, models, search, serve
from localize.cli.shared import INTERRUPTED, SOME_FAILED, TERMINATED, USAGE, complain


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 some inputs failed, 2 usage."""
    if arguments is None:  # the process is ours
        _collect_less()
    parsed = _parser().parse_args(arguments)
    try:
        with _terminable(), _plain_warnings(parsed), _plain_log(parsed):
            run: Callable[[argparse.Namespace], int] = parsed.run
            return run(parsed)
    except BrokenPipeError:
        # Whoever read our output has gone; leave nothing for the interpreter to flush into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except OSError as error:
        complain(str(error))
        return SOME_FAILED
    except (ValueError, ImportError) as error:
        complain(str(error))
        return USAGE
    except KeyboardInterrupt:
        complain("interrupted; what was finished is intact")
        return INTERRUPTED
    except Exception as error:  # The last net, memory that ran out among it.
        if sys.flags.dev_mode:  # python -X dev shows developers where
            raise
        complain(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}")
        return SOME_FAILED


def _collect_less() -> None:
    """Look for cycles among Python's objects less often than is usual, and not at the end.

    Importing torch and transformers makes a million objects that stay. Searching them again and
    again for what could go was a quarter of the time that one photo takes.
    """
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and not the whole usage along with it."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see '{self.prog} --help'")
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="localize",
        description="Find things in pictures by words: relevance maps, boxes, and 'not here'.",
    )
    parser.add_argument("--version", action="version", version=f"localize {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    detect.add(commands)
    index.add(commands)
    search.add(commands)
    demo.add(commands)
    evaluate.add(commands)
    bench.add(commands)
    models.add(commands)
    serve.add(commands)
    app.add(commands)
    return parser


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end what runs in here as Ctrl-C does, with its own sentence and exit code."""
    if threading.current_thread() is not threading.main_thread():  # Others may set no handlers.
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    complain("terminated; what was finished is intact")
    raise SystemExit(TERMINATED)


@contextmanager
def _plain_warnings(parsed: argparse.Namespace) -> Iterator[None]:
    """Show a warning as one sentence, without the line of code that gave it."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if not parsed.quiet:
            complain(str(message))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def _plain_log(parsed: argparse.Namespace) -> Iterator[None]:
    """Show what the package logs, such as that a model is being fetched, as sentences."""
    handler = _Complainer(logging.INFO)
    logger = logging.getLogger("localize")
    before = logger.level
    if not parsed.quiet:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Complainer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())
