"""Answers that come in pieces: lines of JSON, the last one the answer or why there is none.

Knows JSON and what may go wrong; must not know what is answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

from localize.images import ImageError
from localize.names import printable
from localize.serve.refusal import FAILED, RefusalError, shown

logger = logging.getLogger(__name__)

Put: TypeAlias = Callable[[dict[str, Any]], None]


class StoppedError(Exception):
    """Nobody waits for the answer any more."""


async def lines(work: Callable[[Put], Awaitable[None]]) -> AsyncIterator[bytes]:
    """What some work puts, a line each, as soon as it does.

    What goes wrong becomes the last line: its sentence as `detail`, and a status of HTTP. The work
    is cancelled where nobody reads on.
    """
    told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def watched() -> None:
        try:
            await work(told.put_nowait)
        except (RefusalError, ImageError) as error:
            status = error.status if isinstance(error, RefusalError) else 422
            told.put_nowait({"detail": shown(str(error)), "status": status})
        except Exception as error:
            reason = " ".join(str(error).split()) or "no reason given"
            logger.error("%s: %s", type(error).__name__, printable(reason))
            told.put_nowait({"detail": FAILED, "status": 500})
        told.put_nowait(None)

    task = asyncio.create_task(watched())
    try:
        while (line := await told.get()) is not None:
            yield json.dumps(line).encode() + b"\n"
    finally:
        task.cancel()
