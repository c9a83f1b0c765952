"""What every request passes first: who may ask, how much, how many at once, how long.

Knows ASGI (asgi.readthedocs.io); must not know what is asked. A body is read here, whole or not at
all, so that nothing behind has to do with clients that cut their uploads; whatever goes wrong
behind becomes one sentence, and the server lives on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from localize.names import printable
from localize.serve.refusal import FAILED, RefusalError, as_body

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

PROBES = {"/livez", "/readyz"}
"""Answered to everybody, however busy the server is."""

MOST_AT_ONCE = 32
"""Requests that may wait or be answered at one time, each with a body in memory."""

STALL_SECONDS, UPLOAD_SECONDS = 10.0, 120.0
"""A body must go on after the first, and have come after the second."""

DRAINED = 4
"""How many times the limit of a body that is too large is read and thrown away, so that the client
listens to why it is refused."""


class _GoneError(Exception):
    """The client has closed the connection; nobody waits for an answer."""


class Gate:
    """An ASGI application in front of another.

    max_bytes: of a body. token: that each request must have, or None. hosts: the names that the
    server may be called by, or None for any; where it listens on the loopback alone, this keeps
    web pages from reaching it through a name of their own that leads here. level: at which each
    request is logged.
    """

    def __init__(
        self,
        app: App,
        max_bytes: int,
        token: str | None = None,
        hosts: frozenset[str] | None = None,
        level: int = logging.INFO,
    ):
        self._app = app
        self._level = level
        self._max_bytes = max_bytes
        self._token = token
        self._hosts = hosts
        self._inside = 0

    def has_room(self) -> bool:
        """Whether one more request would be taken."""
        return self._inside < MOST_AT_ONCE

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path in PROBES:
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._inside += 1
        try:
            await self._answer(scope, receive, noted)
        except _GoneError:
            pass
        except Exception as error:
            if sys.flags.dev_mode:
                logger.exception("%s %s", scope["method"], printable(path))
            refusal = error
            if not isinstance(error, RefusalError):
                reason = " ".join(str(error).split()) or "no reason given"
                logger.error("%s: %s", type(error).__name__, printable(reason))
                refusal = RefusalError(500, FAILED)
            if not status:
                await _refuse(noted, path, refusal)
        finally:
            self._inside -= 1
            outcome = str(status) if status else "the client has gone"
            seconds = time.monotonic() - started
            line = "%s %s: %s, %.2f s"
            logger.log(self._level, line, scope["method"], printable(path), outcome, seconds)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        refusal = self._refusal(headers)
        # Who asks first whether to send the body listens now; others only once they have sent it.
        if refusal is not None and "expect" in headers:
            raise refusal
        body = await self._body(receive, keep=refusal is None)
        if refusal is not None:
            raise refusal
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replayed() -> Message:
            message = next(messages, None)
            return await receive() if message is None else message

        await self._app(scope, replayed, send)

    def _refusal(self, headers: Mapping[str, str]) -> RefusalError | None:
        """Why a request is refused by its headers, if it is."""
        if self._inside > MOST_AT_ONCE:
            return RefusalError(503, f"{MOST_AT_ONCE} requests wait already; ask again in a moment")
        name = _host_name(headers.get("host", ""))
        if self._hosts is not None and name not in self._hosts:
            return RefusalError(
                421, f"this server is not called {name}; start it with --host to say so"
            )
        if self._token is not None and not any(
            hmac.compare_digest(each, self._token.encode()) for each in _tokens(headers)
        ):
            return RefusalError(401, "the token of --token is missing or wrong")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> RefusalError:
        limit = self._max_bytes / 1e6
        return RefusalError(413, f"the request is larger than the limit of {limit:g} MB")

    async def _body(self, receive: Receive, keep: bool) -> bytes:
        """The whole body. Raises RefusalError where it is too large (413) or too slow (408)."""
        parts: list[bytes] = []
        count, end = 0, time.monotonic() + UPLOAD_SECONDS
        more = True
        while more:
            left = min(STALL_SECONDS, end - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), left)
            except (asyncio.TimeoutError, TimeoutError):
                raise RefusalError(408, "the request did not come to its end in time") from None
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            more = message.get("more_body", False)
            count += len(part)
            if keep:
                parts.append(part)
            if count > self._max_bytes:
                keep = False
                parts.clear()
                if count > DRAINED * self._max_bytes:
                    break
        if count > self._max_bytes:
            raise self._too_large()
        return b"".join(parts)


def _host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.partition(":")[0].lower()


def _tokens(headers: Mapping[str, str]) -> list[bytes]:
    """What may be the token: X-AnyLabeling's header, or Authorization's, a password included."""
    found = [headers["token"].encode("latin-1")] if "token" in headers else []
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() in ("bearer", "token"):
        found.append(value.strip().encode("latin-1"))
    if kind.lower() == "basic":
        with suppress(binascii.Error, ValueError):
            found.append(base64.b64decode(value).partition(b":")[2])
    return found


async def _refuse(send: Send, path: str, refusal: Exception) -> None:
    status = refusal.status if isinstance(refusal, RefusalError) else 500
    body = json.dumps(as_body(path, str(refusal))).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="localize"'))
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
