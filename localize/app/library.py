"""A store of pictures, searched from the page.

Knows the index and the files that it names; must not know HTTP. A page names a picture by a word
that it was given with a hit, never by its path.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

from pydantic import Field

from localize.app.lines import Put, StoppedError
from localize.app.questions import Wanted
from localize.app.uploads import small_picture
from localize.images import ImageError, read_image
from localize.index import Hit, Index
from localize.names import display_name, printable
from localize.prompts import Prompt
from localize.render.colours import colour_of
from localize.result import Localization
from localize.serve.refusal import RefusalError

MOST_HITS = 60
"""Pictures of one answer at most."""

MOST_KNOWN = 3000
"""Hits whose pictures can still be asked for."""

THUMBNAIL_SIDE = 360


class Search(Wanted):
    """What to look for in the store. least: presence of a hit. top: most hits. again: whether to
    look again at what is likely, picture by picture."""

    least: float = Field(0.7, ge=0, le=1)
    top: int = Field(24, ge=1, le=MOST_HITS)
    again: bool = False


class Library:
    """A store and its model, asked one question after the other."""

    def __init__(self, index: Index, max_pixels: int):
        self._index, self._max_pixels = index, max_pixels
        self._paths: OrderedDict[str, str] = OrderedDict()
        self._secret = secrets.token_bytes(16)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="search")

    def facts(self) -> dict[str, Any]:
        """How many pictures it holds, and the model that looked at them."""
        return {"pictures": len(self._index), "model": self._index.store.settings.model}

    async def search(self, prompts: Sequence[Prompt], asked: Search, put: Put) -> None:
        """Put the hits, surest first, by windows alone; then, if that is asked for, how many
        pictures were looked at again, and at last the hits as they are then."""
        if not prompts:
            raise RefusalError(422, "say first what to look for")
        loop, stopped = asyncio.get_running_loop(), threading.Event()
        looked = count(1)

        def tell(result: Localization) -> None:
            if stopped.is_set():
                raise StoppedError
            loop.call_soon_threadsafe(put, {"looked": next(looked)})

        def find(fast: bool) -> list[Hit]:
            if stopped.is_set():
                raise StoppedError
            self._index.on_look = tell
            return self._index.search(prompts, top=asked.top, min_presence=asked.least, fast=fast)

        labels = [prompt.label for prompt in prompts]
        try:
            for fast in (True, False) if asked.again else (True,):
                hits = await loop.run_in_executor(self._worker, find, fast)
                put(
                    {
                        "hits": [self._shown(hit, labels) for hit in hits],
                        "pictures": len(self._index),
                        "last": not (asked.again and fast),
                    }
                )
        finally:
            stopped.set()

    def name(self, hit: str) -> str:
        """The name of a hit's file. Raises RefusalError for what was no hit lately."""
        return os.path.basename(self._path(hit))

    def file(self, hit: str, max_bytes: int) -> bytes:
        """The file of a hit. Raises RefusalError where it is gone, or larger than that."""
        path = self._path(hit)
        try:
            with open(path, "rb") as file:
                data = file.read(max_bytes + 1)
        except OSError:
            raise RefusalError(404, f"{display_name(path)} is no longer there") from None
        if len(data) > max_bytes:
            raise RefusalError(
                413, f"{display_name(path)} is larger than the limit of {max_bytes / 1e6:g} MB"
            )
        return data

    def thumbnail(self, hit: str) -> bytes:
        """A small WebP file of a hit's picture."""
        path = self._path(hit)
        try:
            picture = read_image(path, max_pixels=self._max_pixels)
        except ImageError as error:
            raise RefusalError(404, str(error)) from None
        return small_picture(picture, THUMBNAIL_SIDE, "WEBP", 75)

    def _path(self, hit: str) -> str:
        if hit not in self._paths:
            raise RefusalError(404, "this hit is no longer known; search again")
        return self._paths[hit]

    def _shown(self, hit: Hit, labels: Sequence[str]) -> dict[str, Any]:
        name = hmac.digest(self._secret, os.fsencode(hit.file), "sha256")[:12].hex()
        self._paths[name] = hit.file
        while len(self._paths) > MOST_KNOWN:
            self._paths.popitem(last=False)
        return {
            "id": name,
            "file": printable(os.path.basename(hit.file)),
            "presence": round(hit.presence, 4),
            "ratio": round(hit.width / hit.height, 4),
            "taken": None if hit.taken is None else hit.taken.date().isoformat(),
            "boxes": [
                {
                    "label": printable(box.label),
                    "colour": "rgb({}, {}, {})".format(*colour_of(labels.index(box.label))),
                    "left": 100 * box.xyxy[0] / hit.width,
                    "top": 100 * box.xyxy[1] / hit.height,
                    "width": 100 * (box.xyxy[2] - box.xyxy[0]) / hit.width,
                    "height": 100 * (box.xyxy[3] - box.xyxy[1]) / hit.height,
                }
                for box in hit.boxes
            ],
        }
