"""Reaching a cluster, or starting one in this process; and how what goes wrong with it is told.

Knows Ray as a whole; must not know pictures, models or datasets' rows.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from localize.cluster.plan import Machine
from localize.names import os_reason

LOCAL = "local"
"""The address that stands for starting Ray in this process, on this machine alone."""

CONNECT_SECONDS, ANSWER_SECONDS, MACHINE_SECONDS = 5, 20, 60
"""How long a machine may take to take a connection, a cluster to answer, and its first machine with
cores to join it."""

_PROBE = (
    "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
)


class ClusterError(ValueError):
    """A cluster cannot be used. The message is one sentence: why, and what would be right."""


def check_installed() -> None:
    """Raises ImportError without the extra `ray`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # The processes that Ray starts read it.
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "running on a cluster needs the extra 'ray': pip install 'clip-localize[ray]'"
        ) from error


@contextmanager
def connected(address: str | None, workers: int | None = None) -> Iterator[None]:
    """Be a driver of the cluster at an address while in here; a Ray that is there already stays.

    address: "host:port" of a head, "auto" for the cluster that this machine is part of, `LOCAL` to
        start one here, or None for RAY_ADDRESS where that is set, else `LOCAL`.
    workers: how many cores a Ray that is started here counts at least.

    Raises ImportError without the extra `ray`, and ClusterError where nobody answers.
    """
    where = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if where == LOCAL and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        # Some of Ray's sockets are open to the network: nobody else is to know what they ask for.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    check_installed()
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray's own log files keep all; what goes wrong is raised, and told once.
    for handler in (*logging.getLogger("ray").handlers, *logging.getLogger("ray.data").handlers):
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setLevel(logging.CRITICAL)
    # What Ray's core would print goes to its log files; only that it was told so is printed.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Its news of workers that died would go to stdout, among the answers; no option keeps them off.
    ray._private.worker._worker_logs_enabled = False
    if where == LOCAL:
        cores = max(workers or 1, os.cpu_count() or 1)
        with _no_stderr(), _same_signals():
            ray.init(LOCAL, num_cpus=cores, include_dashboard=False, **_QUIETLY)
    else:
        check_answers(where)
        with _no_stderr(), _same_signals():
            ray.init(where, **_QUIETLY)
    try:
        yield
    finally:
        ray.shutdown()


_QUIETLY: dict[str, object] = {"log_to_driver": False, "logging_level": "ERROR"}


@contextmanager
def _same_signals() -> Iterator[None]:
    """Leave SIGTERM to whoever had it, where Ray takes it for itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # Others may set no handlers.
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Let nothing out, not even what is printed by other languages than Python."""
    try:
        kept = os.dup(2)
    except OSError:  # There is none.
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def check_answers(address: str) -> None:
    """Raise ClusterError where no cluster that this Ray understands is at an address.

    Ray itself would ask for minutes and end the process, so that a process of its own asks.
    """
    nobody = f"no Ray cluster answers at {address}"
    if address == "auto":
        nobody = "no Ray cluster runs on this machine"
    else:
        host, colon, port = address.rpartition(":")
        if "://" in address or not (colon and host and port.isdecimal() and int(port) < 1 << 16):
            raise ClusterError(
                f"--ray takes host:port of a Ray head, 'auto' or nothing, not {address!r}"
            )
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise ClusterError(f"{nobody}: {os_reason(error)}") from error
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _PROBE, address],
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{nobody} within {ANSWER_SECONDS} seconds") from error
    if asked.returncode:
        said = asked.stderr.strip().splitlines()
        reason = "" if address == "auto" or not said else f": {said[-1]}"
        raise ClusterError(f"{nobody}{reason}")


def machines() -> list[Machine]:
    """The machines of the cluster; waits for the first that has cores, should they be starting."""
    import ray

    end = time.monotonic() + MACHINE_SECONDS
    while True:
        found = [Machine.of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
        if any(machine.cpus for machine in found) or time.monotonic() > end:
            return found
        time.sleep(1)
