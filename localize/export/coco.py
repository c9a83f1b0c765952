"""COCO's two files: a dataset, and results to hold against one (cocodataset.org, "Data format").

Pictures and categories are numbered from 1 in their order, in both files alike. Boxes are x, y,
width and height in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from localize.export.answers import Answer
from localize.export.pieces import as_json, json_array
from localize.result import Box


def dataset(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """``coco.json``: images, categories and boxes, each with its score."""
    categories = [{"id": number, "name": label} for label, number in _categories(labels).items()]
    info = {"description": "boxes found by localize"}
    pieces = chain(
        [b'{"info": ', as_json(info), b', "categories": ', as_json(categories), b', "images": '],
        json_array(_images(answers)),
        [b', "annotations": '],
        json_array(_annotations(answers, labels)),
        [b"}\n"],
    )
    yield "coco.json", pieces


def results(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """``coco-results.json``: the boxes alone, as ``COCO.loadRes`` takes them."""
    yield "coco-results.json", chain(json_array(_boxes(answers, labels)), [b"\n"])


def _images(answers: Iterable[Answer]) -> Iterator[dict[str, Any]]:
    for number, answer in enumerate(answers, 1):
        size = {"width": answer.width, "height": answer.height}
        yield {"id": number, "file_name": answer.name, **size}


def _annotations(answers: Iterable[Answer], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, found in enumerate(_boxes(answers, labels), 1):
        area = found["bbox"][2] * found["bbox"][3]
        yield {"id": number, **found, "area": area, "iscrowd": 0}


def _boxes(answers: Iterable[Answer], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    categories = _categories(labels)
    for number, answer in enumerate(answers, 1):
        yield from (_found(number, categories, box) for box in answer.boxes)


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
