"""labelme's JSON, a file a picture, in ``labelme/``, as github.com/wkentaro/labelme reads it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from localize.export.answers import Answer
from localize.export.pieces import as_json


def write(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, bytes]]:
    """``labelme/NAME.json`` for each picture; each says where its picture lies from there."""
    for answer in answers:
        name = f"labelme/{answer.name}.json"
        shapes: list[dict[str, Any]] = [
            {
                "label": box.label,
                "points": [list(box.xyxy[:2]), list(box.xyxy[2:])],
                "group_id": None,
                "description": f"score {box.score:.4f}",
                "shape_type": "rectangle",
                "flags": {},
            }
            for box in answer.boxes
        ]
        whole: dict[str, Any] = {
            "version": "5.0.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": _way(answer, os.path.dirname(os.path.join(folder, name))),
            "imageData": None,
            "imageHeight": answer.height,
            "imageWidth": answer.width,
        }
        yield name, as_json(whole, indent=1)


def _way(answer: Answer, start: str) -> str:
    if answer.path is None:
        return answer.name
    try:
        return os.path.relpath(answer.path, start)
    except ValueError:  # On another drive.
        return answer.path
