"""Where pictures are asked, one after the other, and the encoded ones kept.

Knows the two verbs and memory; must not know HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from localize.images import read_image
from localize.localizer import Encoded, Localizer
from localize.prompts import Prompt
from localize.result import Localization


class Desk:
    """Answers what many ask at once, in the order they came, in one thread of its own.

    localizer: shared by all. megabytes: what encoded pictures may take that are kept for further
    questions; those that were asked longest ago go first.
    """

    def __init__(self, localizer: Localizer, megabytes: float):
        self.localizer = localizer
        self._limit = int(megabytes * 1e6)
        self._kept: OrderedDict[bytes, Encoded] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="desk")

    @property
    def kept_bytes(self) -> int:
        """What the pictures that are kept take."""
        return sum(map(size_of, self._kept.values()))

    def warm_up(self) -> None:
        """Make what the first question needs, the embeddings of the negatives among it."""
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        self.localizer.locate(noise, Prompt.of("a thing", threshold=0))

    async def locate(self, data: bytes, prompts: Sequence[Prompt]) -> Localization:
        """`Localizer.locate` of an image file's bytes.

        Raises images.ImageError where they are no picture, or one that is too large.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._locate, data, prompts)

    def close(self) -> None:
        """Wait until the last question is answered, and take no more."""
        self._worker.shutdown()

    def _locate(self, data: bytes, prompts: Sequence[Prompt]) -> Localization:
        return self.localizer.locate(self._encoded(data), prompts)

    def _encoded(self, data: bytes) -> Encoded:
        key = hashlib.sha256(data).digest()
        encoded = self._kept.pop(key, None)
        if encoded is None:
            picture = read_image(data, max_pixels=self.localizer.options.max_pixels)
            encoded = self.localizer.encode(picture)
        if size_of(encoded) <= self._limit:
            self._kept[key] = encoded
            while self.kept_bytes > self._limit:
                self._kept.popitem(last=False)
        return encoded


def size_of(encoded: Encoded) -> int:
    """What an encoded picture takes in memory, its superpixels (made now, if need be) included."""
    tensors = [encoded.embeddings, *(() if encoded.tokens is None else (encoded.tokens,))]
    arrays: list[npt.NDArray[Any]] = [encoded.picture.pixels]
    for each in encoded.superpixels:
        sharing = each.sharing
        arrays += [each.segments, sharing.data, sharing.indices, sharing.indptr]
    return sum(each.nbytes for each in tensors) + sum(each.nbytes for each in arrays)
