"""The page and what it asks for, behind the gate.

Knows FastAPI and what is kept; must not know sockets, nor how answers come about.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from importlib.resources import files as package_files
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.datastructures import Headers, MutableHeaders

from localize import __version__
from localize.app.answers import DOWNLOADS, download, shown
from localize.app.examples import EXAMPLES, example_file, known_words
from localize.app.library import Library, Search
from localize.app.lines import Put, StoppedError, lines
from localize.app.models import Models
from localize.app.questions import MOST_PROMPTS, Question, Wanted, asked_of
from localize.app.uploads import Upload, Uploads, read_upload
from localize.encoding import Progress
from localize.options import Options
from localize.prompts import Prompt
from localize.result import Localization
from localize.serve.app import explain_errors
from localize.serve.gate import Gate, Message, Receive, Send
from localize.serve.refusal import RefusalError

FILES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")} | {
    "/page.js": ("page.js", "text/javascript")
}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' blob: data:; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


DECODED_AT_ONCE = 2
"""Pictures that are decoded at one time: a large one takes hundreds of megabytes."""

Some = TypeVar("Some")


class App:
    """What the page's requests are answered with.

    options: the thresholds and limits that the models answer with. max_bytes: of a picture.
    library: a store to be searched, or None.
    """

    def __init__(
        self,
        models: Models,
        uploads: Uploads,
        options: Options,
        max_bytes: int,
        library: Library | None = None,
    ):
        self.models, self.uploads, self.options = models, uploads, options
        self.max_bytes, self.library = max_bytes, library
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)

    def start(self) -> dict[str, Any]:
        """What the page has to know before anything is asked."""
        return {
            "version": __version__,
            "models": self.models.names,
            "threshold": self.options.threshold,
            "max_bytes": self.max_bytes,
            "most_prompts": MOST_PROMPTS,
            "downloads": DOWNLOADS,
            "known": known_words(),
            "examples": [
                {"title": each.title, "prompts": each.prompts, "image": f"/examples/{number}"}
                for number, each in enumerate(EXAMPLES)
            ],
            "library": None if self.library is None else self.library.facts(),
        }

    async def decode(self, function: Callable[..., Some], *arguments: Any) -> Some:
        """The value of a function that reads a picture, in a thread."""
        async with self._decoding:
            return await asyncio.to_thread(function, *arguments)

    async def take(self, data: bytes, name: str) -> dict[str, Any]:
        """Keep a picture; its facts for the page."""
        upload = await self.decode(read_upload, data, name, self.options.max_pixels)
        self.uploads.add(upload)
        return {
            "id": upload.id,
            "name": upload.name,
            "width": upload.width,
            "height": upload.height,
            "notes": upload.notes,
        }

    async def prompts(self, wanted: Wanted, threshold: float | None = None) -> list[Prompt]:
        """What a page wants. Raises RefusalError for what cannot be asked."""
        crops = [
            await self.decode(self.uploads.crop, each.picture, each.box) for each in wanted.like
        ]
        return asked_of(wanted, crops, threshold)

    async def located(
        self, question: Question, progress: Progress | None = None
    ) -> tuple[Upload, Localization | None]:
        """The answer to a question; None where nothing is asked, and the picture only encoded."""
        upload = self.uploads.find(question.picture)
        prompts = await self.prompts(question, question.threshold)
        desk = await self.models.desk(question.model)
        if not prompts:
            await desk.encode(upload.data, progress)
            return upload, None
        return upload, await desk.locate(upload.data, prompts, progress)

    async def answer(self, question: Question, put: Put) -> None:
        """Put how far the picture is encoded, and at last the answer.

        Where nobody waits for it any more, a picture is encoded no further.
        """
        loop, gone = asyncio.get_running_loop(), threading.Event()

        def progress(done: int, total: int) -> None:
            if gone.is_set():
                raise StoppedError
            loop.call_soon_threadsafe(put, {"done": done, "of": total})

        try:
            if not self.models.is_loaded(question.model):
                put({"loading": question.model})
            _, result = await self.located(question, progress)
            put({"answer": None if result is None else await asyncio.to_thread(shown, result)})
        finally:
            gone.set()


def make_app(app: App, *, token: str | None = None, hosts: frozenset[str] | None = None) -> Gate:
    """The page as an ASGI application. See `Gate` for token and hosts."""
    web = FastAPI(title="localize app", version=__version__, docs_url=None, redoc_url=None)
    explain_errors(web)

    for address, (name, kind) in FILES.items():
        web.get(address)(_file(name, kind))

    @web.get("/start")
    async def start() -> dict[str, Any]:
        return app.start()

    @web.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @web.get("/examples/{number}")
    async def example(number: int) -> Response:
        return Response(await asyncio.to_thread(_example, number), media_type="image/png")

    @web.post("/examples/{number}")
    async def take_example(number: int) -> dict[str, Any]:
        data = await asyncio.to_thread(_example, number)
        return await app.take(data, f"{EXAMPLES[number].title}.png")

    @web.post("/pictures")
    async def take(request: Request, name: str = "picture") -> dict[str, Any]:
        return await app.take(await request.body(), name)

    @web.get("/pictures/{name}")
    async def preview(name: str) -> Response:
        return Response(app.uploads.find(name).preview, media_type="image/jpeg")

    @web.post("/ask")
    async def ask(question: Question) -> StreamingResponse:
        return _in_lines(lambda put: app.answer(question, put))

    @web.post("/download/{kind}")
    async def give(kind: str, question: Question) -> Response:
        upload, result = await app.located(question)
        if result is None:
            raise RefusalError(422, "say first what to look for")
        name, data = await asyncio.to_thread(download, result, kind, upload)
        disposition = f"attachment; filename*=utf-8''{quote(name)}"
        return Response(
            data,
            media_type="application/octet-stream",
            headers={"Content-Disposition": disposition},
        )

    if app.library is not None:
        _add_library(web, app, app.library)
    # Every key that is typed is a request, too many to be told of.
    return Gate(_Guarded(web), app.max_bytes, token, hosts, level=logging.DEBUG)


def _add_library(web: FastAPI, app: App, library: Library) -> None:
    """What the page of a store asks for."""

    @web.post("/search")
    async def search(asked: Search) -> StreamingResponse:
        async def work(put: Put) -> None:
            await library.search(await app.prompts(asked), asked, put)

        return _in_lines(work)

    @web.get("/hits/{number}")
    async def thumbnail(number: str) -> Response:
        data = await app.decode(library.thumbnail, number)
        return Response(data, media_type="image/webp")

    @web.post("/hits/{number}")
    async def take_hit(number: str) -> dict[str, Any]:
        data = await asyncio.to_thread(library.file, number, app.max_bytes)
        return await app.take(data, library.name(number))


class _Guarded:
    """No other page may make a browser ask here, and this one loads nothing from elsewhere."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise RefusalError(403, "another page must not ask here")

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, sent)


def _in_lines(work: Callable[[Put], Awaitable[None]]) -> StreamingResponse:
    return StreamingResponse(lines(work), media_type="application/x-ndjson")


def _file(name: str, kind: str) -> Any:
    """What answers with a file of the package."""
    content = (package_files(__package__) / name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=kind)

    return file


def _example(number: int) -> bytes:
    if not 0 <= number < len(EXAMPLES):
        raise RefusalError(404, f"there is no example {number}")
    return example_file(number)
