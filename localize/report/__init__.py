"""A run -> one HTML page that needs nothing else: pictures with boxes and maps, to look through.

Knows answers, the small pictures that a run keeps for it, and HTML; must not know models, nor where
a run keeps what.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from PIL import Image

from localize.export import Answer, Found
from localize.names import printable
from localize.render.colours import colour_of, heat_alone
from localize.result import Localization

THUMBNAIL_SIDE, MAP_SIDE = 480, 64
"""The long sides of a picture and of a map in the page, in pixels."""

THUMBNAIL_BYTES = 32_000
"""What a thumbnail takes at most, unless it does so in the poorest quality."""

MAPS = 8
"""Maps kept of a picture: those of the prompts that are surest to be there."""

PERHAPS_HERE = 0.1
"""Presence from which a prompt without boxes has a map worth looking at."""


class Sketch(TypedDict):
    """What a page shows of one picture besides its answers, as plain data that can be kept.

    thumbnail: a WebP file, in base64. maps: those of some prompts, RGBA in WebP, in base64.
    """

    thumbnail: str
    maps: dict[str, str]


def sketch(result: Localization) -> Sketch:
    """The small pictures of one result."""
    found = {box.label for box in result.boxes}
    sure = dict(zip(result.prompts, result.presence.tolist(), strict=True))
    worth = [label for label in sure if label in found or sure[label] >= PERHAPS_HERE]
    surest = sorted(worth, key=lambda label: (label not in found, -sure[label]))[:MAPS]
    maps = {label: _heat(result.maps[result.prompts.index(label)]) for label in surest}
    return {"thumbnail": thumbnail(result.pixels), "maps": {k: _base64(v) for k, v in maps.items()}}


def thumbnail(pixels: npt.NDArray[np.uint8]) -> str:
    """A small copy of a picture, uint8 (H, W, 3), as in a `Sketch`."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2)
    for quality in (75, 50, 25, 5):
        data = _webp(picture, quality)
        if len(data) <= THUMBNAIL_BYTES:
            break
    return _base64(data)


@dataclass(frozen=True)
class Moment:
    """Where in a video a frame is.

    time: of the frame, in seconds. seconds: of the video's last one.
    spans: for each prompt from when to when it is there.
    """

    time: float
    seconds: float
    spans: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Card:
    """What the page shows of one picture, or of one frame of a video, whose path its answer has."""

    answer: Answer
    sketch: Mapping[str, Any]
    moment: Moment | None = None


def page(
    cards: Iterable[Card],
    *,
    folder: str | os.PathLike[str],
    found: Sequence[Found],
    images: int,
    videos: int = 0,
    failed: Sequence[str],
    surest_first: bool = False,
) -> Iterator[bytes]:
    """The page, piece by piece, so that it never has to be in memory as a whole.

    cards: the pictures and frames of `videos`, in their order, each with its `sketch`.
    folder: where the page will lie, from which it links to the pictures.
    found: of each prompt, in their order. failed: a sentence for each that could not be done.
    images: how many pictures were asked; those without a card are known not to show it.
    surest_first: the cards come in that order, and are shown so at first, not by their names.
    """
    # Comes with torch, and is loaded only by those who want a page.
    import jinja2

    waiting = iter(cards)
    first = next(waiting, None)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"printable": printable, "percent": _percent}
    script = _resource("page.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    numbers = {each.prompt: number for number, each in enumerate(found)}
    pieces = environment.get_template("page.html").stream(
        cards=(
            _card(each, numbers, os.fspath(folder))
            for each in chain([first] if first else [], waiting)
        ),
        model=first.answer.model if first else "",
        prompts=[(each, "rgb({}, {}, {})".format(*colour_of(n))) for n, each in enumerate(found)],
        images=images,
        videos=videos,
        failed=failed,
        surest_first=surest_first,
        has_cards=first is not None,
        script=script,
        script_digest=digest,
        style=_resource("page.css"),
    )
    pieces.enable_buffering(50)
    return (piece.encode() for piece in pieces)


def _card(card: Card, numbers: Mapping[str, int], folder: str) -> dict[str, Any]:
    """What the template shows of one picture. Prompts go by their numbers."""
    answer, sketch, moment = card.answer, card.sketch, card.moment
    width, height = answer.width, answer.height
    boxes: list[dict[str, Any]] = [
        {
            "prompt": numbers[box.label],
            "score": box.score,
            "xyxy": box.xyxy,
            "left": 100 * box.xyxy[0] / width,
            "top": 100 * box.xyxy[1] / height,
            "width": 100 * (box.xyxy[2] - box.xyxy[0]) / width,
            "height": 100 * (box.xyxy[3] - box.xyxy[1]) / height,
        }
        for box in answer.boxes
    ]
    best: dict[int, float] = {}
    for box in boxes:  # best first
        best.setdefault(box["prompt"], box["score"])
    return {
        "name": answer.name,
        "link": _link(answer.path, folder) + (f"#t={moment.time}" if moment else ""),
        "time": moment.time if moment else None,
        "spans": _spans(moment, numbers) if moment else [],
        "width": width,
        "height": height,
        "thumbnail": sketch["thumbnail"],
        "maps": {numbers[label]: data for label, data in sketch["maps"].items()},
        "presence": {numbers[label]: sure for label, sure in answer.presence.items()},
        "boxes": boxes,
        "best": best,
    }


def _spans(moment: Moment, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """When each prompt is there: in words, and as parts of the video's length in percent."""
    ends = [end for found in moment.spans.values() for _, end in found]
    length = max(moment.seconds, *ends, 1e-3) if ends else 1.0
    return [
        {
            "prompt": numbers[prompt],
            "words": ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in found),
            "parts": [(100 * start / length, 100 * (end - start) / length) for start, end in found],
            "now": 100 * moment.time / length,
        }
        for prompt, found in moment.spans.items()
        if found
    ]


def _link(path: str | None, folder: str) -> str:
    """The way from the page to a picture, as an address that can mean nothing else."""
    if path is None:
        return ""
    try:
        way = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # On another drive.
        return Path(path).as_uri()
    return quote(os.fsencode(way))


def _heat(relevance: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    small = Image.fromarray(relevance)
    small.thumbnail((MAP_SIDE, MAP_SIDE), Image.Resampling.BOX, reducing_gap=None)
    return _webp(Image.fromarray(heat_alone(np.asarray(small, np.float32).clip(0, 1))), 60)


def _webp(image: Image.Image, quality: int) -> bytes:
    data = BytesIO()
    image.save(data, "WEBP", quality=quality)
    return data.getvalue()


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _percent(part: float) -> str:
    return f"{100 * part:.0f}\u202f%"


def _resource(name: str) -> str:
    return (package_files(__package__) / name).read_text("utf-8")
