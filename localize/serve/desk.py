"""Where pictures are asked, in the order they came, and the encoded ones kept.

Knows the two verbs and memory; must not know HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from localize.encoding import Encoded, Progress
from localize.images import read_image
from localize.localizer import Localizer
from localize.prompts import Prompt
from localize.result import Localization
from localize.serve.memory import give_back


class Desk:
    """Answers what many ask at once, in two lines: new pictures, and questions about kept ones.

    Each line has a thread of its own, so that a new picture keeps nobody waiting who asks again.
    localizer: shared by all. megabytes: what encoded pictures may take that are kept for further
    questions; those that were asked longest ago go first.
    """

    def __init__(self, localizer: Localizer, megabytes: float):
        self.localizer = localizer
        self._limit = int(megabytes * 1e6)
        self._kept: OrderedDict[bytes, Encoded] = OrderedDict()
        self._lock = threading.Lock()
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="ask")

    @property
    def kept_bytes(self) -> int:
        """What the pictures that are kept take."""
        with self._lock:
            return sum(encoded.nbytes for encoded in self._kept.values())

    def warm_up(self) -> None:
        """Make what the first question needs, the embeddings of the negatives among it."""
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        self.localizer.locate(noise, Prompt.of("a thing", threshold=0))

    async def encode(self, data: bytes, progress: Progress | None = None) -> Encoded:
        """`Localizer.encode` of an image file's bytes, or what is kept of it.

        progress: as there, called in another thread. Raises images.ImageError where the bytes are
        no picture, or one that is too large.
        """
        key = hashlib.sha256(data).digest()
        encoded = self._found(key)
        if encoded is None:
            loop = asyncio.get_running_loop()
            encoded = await loop.run_in_executor(self._encoding, self._encode, key, data, progress)
            self._encoding.submit(give_back)  # after the answer, before the next picture
        return encoded

    async def locate(
        self, data: bytes, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Localization:
        """`Localizer.locate` of an image file's bytes; errors as in `encode`."""
        encoded = await self.encode(data, progress)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._asking, self.localizer.locate, encoded, list(prompts)
        )

    def close(self) -> None:
        """Wait until the last question is answered, and take no more."""
        self._encoding.shutdown()
        self._asking.shutdown()

    def _found(self, key: bytes) -> Encoded | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _encode(self, key: bytes, data: bytes, progress: Progress | None) -> Encoded:
        found = self._found(key)  # who waited in line before may have sent the same
        if found is not None:
            return found
        picture = read_image(data, max_pixels=self.localizer.options.max_pixels)
        encoded = self.localizer.prepare(self.localizer.encode(picture, progress))
        if encoded.nbytes <= self._limit:
            with self._lock:
                self._kept[key] = encoded
                while sum(each.nbytes for each in self._kept.values()) > self._limit:
                    self._kept.popitem(last=False)
        return encoded
