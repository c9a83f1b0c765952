"""Create ML's JSON: boxes by their centre, in pixels (developer.apple.com, "Building an object
detector data source")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from localize.export.answers import Answer
from localize.export.pieces import json_array
from localize.result import Box


def write(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """``createml.json``."""
    rows = (
        {"image": answer.name, "annotations": [_annotation(box) for box in answer.boxes]}
        for answer in answers
    )
    yield "createml.json", json_array(rows)


def _annotation(box: Box) -> dict[str, Any]:
    left, top, right, bottom = box.xyxy
    centre = {"x": (left + right) / 2, "y": (top + bottom) / 2}
    return {
        "label": box.label,
        "coordinates": {**centre, "width": right - left, "height": bottom - top},
    }
