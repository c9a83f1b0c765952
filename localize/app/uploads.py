"""The pictures that pages have sent, each under a name that nobody can guess.

Knows files' bytes and memory; must not know HTTP or models. Whoever knows the name of a picture may
ask about it; a page keeps its names to itself, so that none sees another's pictures.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import PurePosixPath
from typing import TypeAlias

import numpy as np
from PIL import Image

from localize.images import ImageError, Picture, read_image
from localize.names import display_name, printable
from localize.serve.refusal import RefusalError

PREVIEW_SIDE = 1600
"""The long side, in pixels, of what a page shows of a picture."""

LONGEST_NAME = 100
"""Letters of a file's name that are kept."""

MOST_CROPS = 100
"""Rectangles whose pictures are kept, so that each is looked at once by a model."""

Xyxy: TypeAlias = tuple[float, float, float, float]

GONE = "this picture is no longer kept here; drop it on the page again"


@dataclass(frozen=True, eq=False)
class Upload:
    """An image file that came from a page.

    data: its bytes. name: of the file, without folders. width, height: of the upright picture.
    notes: as in `images.Picture`. preview: the upright picture as a JPEG file, perhaps smaller.
    """

    data: bytes
    name: str
    width: int
    height: int
    notes: tuple[str, ...]
    preview: bytes
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return len(self.data) + len(self.preview)


def read_upload(data: bytes, name: str, max_pixels: int) -> Upload:
    """What a page sent. Raises ImageError, naming the file, where it is no picture."""
    name = _plain_name(name)
    try:
        picture = read_image(data, max_pixels=max_pixels)
    except ImageError as error:
        sentence = str(error).replace("the picture given as bytes", display_name(name))
        raise ImageError(sentence) from error
    height, width = picture.pixels.shape[:2]
    preview = small_picture(picture, PREVIEW_SIDE, "JPEG", 90)
    return Upload(data, name, width, height, picture.notes, preview)


def _plain_name(name: str) -> str:
    """A file's name as files that are made of it can be called, wherever they are unpacked."""
    last = printable(name.replace("\\", "/").rpartition("/")[2])
    plain = "".join("_" if each in '<>:"|?*\\' else each for each in last).strip(" .")
    path = PurePosixPath(plain or "picture")
    return f"{path.stem[:LONGEST_NAME]}{path.suffix[:10]}"


def small_picture(picture: Picture, side: int, kind: str, quality: int) -> bytes:
    """An image file of a picture, with a long side of `side` pixels at most."""
    image = Image.fromarray(picture.pixels)
    image.thumbnail((side, side), reducing_gap=2)
    file = BytesIO()
    image.save(file, kind, quality=quality)
    return file.getvalue()


class Uploads:
    """What pages have sent lately, within so many megabytes; what was used longest ago goes.

    Threads may share one.
    """

    def __init__(self, megabytes: float):
        self._limit = int(megabytes * 1e6)
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._crops: OrderedDict[tuple[str, Xyxy], Picture] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, upload: Upload) -> None:
        """Keep it, if need be in place of others; the last one is kept however large it is."""
        with self._lock:
            self._kept[upload.id] = upload
            taken = sum(each.nbytes for each in self._kept.values())
            while len(self._kept) > 1 and taken > self._limit:
                taken -= self._kept.popitem(last=False)[1].nbytes

    def find(self, name: str) -> Upload:
        """Raises RefusalError (404) for what is not there, or no longer."""
        with self._lock:
            if name not in self._kept:
                raise RefusalError(404, GONE)
            self._kept.move_to_end(name)
            return self._kept[name]

    def crop(self, name: str, box: Xyxy) -> Picture:
        """What a rectangle of a picture shows, the very same one for the same rectangle.

        Raises RefusalError for a picture that is not there, and for no rectangle.
        """
        upload = self.find(name)
        crop = self._crops.get((name, box)) or cut(read_image(upload.data), box)
        with self._lock:
            self._crops[name, box] = crop
            while len(self._crops) > MOST_CROPS:
                self._crops.popitem(last=False)
        return crop


def cut(picture: Picture, box: Xyxy) -> Picture:
    """What a rectangle, xyxy in pixels, encloses. Raises RefusalError (422) where that is nothing.

    Corners may be given in any order, and beyond the picture's edges.
    """
    height, width = picture.pixels.shape[:2]
    if not np.isfinite(box).all():
        raise RefusalError(422, "a rectangle must be four numbers")
    (left, right), (top, bottom) = sorted(box[::2]), sorted(box[1::2])
    left, right = max(0, round(left)), min(width, round(right))
    top, bottom = max(0, round(top)), min(height, round(bottom))
    if right - left < 2 or bottom - top < 2:
        raise RefusalError(422, "the rectangle is too small to show anything; draw a larger one")
    return Picture(np.ascontiguousarray(picture.pixels[top:bottom, left:right]))
