"""COCO's two files: a dataset, and results to hold against one (cocodataset.org, "Data format").

Pictures and categories are numbered from 1 in their order, in both files alike. Boxes are x, y,
width and height in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from localize.export.answers import Answer
from localize.result import Box


def dataset(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, bytes]]:
    """``coco.json``: images, categories and boxes, each with its score."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories = _categories(labels)
    for number, answer in enumerate(answers, 1):
        size = {"width": answer.width, "height": answer.height}
        images.append({"id": number, "file_name": answer.name, **size})
        for box in answer.boxes:
            found = _found(number, categories, box)
            area = found["bbox"][2] * found["bbox"][3]
            annotations.append({"id": len(annotations) + 1, **found, "area": area, "iscrowd": 0})
    whole = {
        "info": {"description": "boxes found by localize"},
        "images": images,
        "categories": [{"id": number, "name": label} for label, number in categories.items()],
        "annotations": annotations,
    }
    yield "coco.json", _json(whole)


def results(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, bytes]]:
    """``coco-results.json``: the boxes alone, as ``COCO.loadRes`` takes them."""
    categories = _categories(labels)
    found = [
        _found(number, categories, box)
        for number, answer in enumerate(answers, 1)
        for box in answer.boxes
    ]
    yield "coco-results.json", _json(found)


def _categories(labels: Sequence[str]) -> dict[str, int]:
    return {label: number for number, label in enumerate(dict.fromkeys(labels), 1)}


def _found(image: int, categories: dict[str, int], box: Box) -> dict[str, Any]:
    left, top, right, bottom = box.xyxy
    return {
        "image_id": image,
        "category_id": categories[box.label],
        "bbox": [left, top, right - left, bottom - top],
        "score": box.score,
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
