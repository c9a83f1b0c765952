"""Folders in COCO's layout (``images/`` and ``instances.json``) as samples.

Knows the file format; knows no model and no metric. Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from localize.evaluation.samples import Sample, Truth

_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


def read_coco(folder: str | Path) -> list[Sample]:
    """Read ``folder/instances.json``; every category's name is asked of every photo.

    Samples come in the order of the file's images; no photo's pixels are read. Boxes go from COCO's
    x, y, width, height to corners; those without any area are left out.

    Raises FileNotFoundError where the folder, its JSON or a photo is missing; ValueError where the
    JSON is no COCO file, or a photo upright has another size than its record says.
    """
    folder = Path(folder)
    path = folder / "instances.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no COCO folder: it should hold instances.json and images/"
        )
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        names = {record["id"]: str(record["name"]) for record in records["categories"]}
        boxes: dict[int, list[tuple[str, list[float], bool]]] = defaultdict(list)
        for record in records["annotations"]:
            x, y, width, height = map(float, record["bbox"])
            if width > 0 and height > 0:
                boxes[record["image_id"]].append(
                    (
                        names[record["category_id"]],
                        [x, y, x + width, y + height],
                        bool(record.get("iscrowd", 0)),
                    )
                )
        prompts = tuple(dict.fromkeys(names.values()))
        return [
            _sample(folder, record, boxes[record["id"]], prompts) for record in records["images"]
        ]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not in COCO's format of images, annotations and categories "
            f"({type(error).__name__}: {error})"
        ) from error


def _sample(
    folder: Path,
    record: dict[str, Any],
    boxes: Iterable[tuple[str, list[float], bool]],
    prompts: tuple[str, ...],
) -> Sample:
    file = str(record["file_name"])
    path = folder / "images" / file
    _check_size(path, record)
    rows = list(boxes)
    truth = Truth(
        file=file,
        labels=tuple(label for label, _, _ in rows),
        xyxy=np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4),
        iscrowd=np.array([crowd for _, _, crowd in rows], bool),
        prompts=prompts,
    )
    return Sample(path, truth)


def _check_size(path: Path, record: dict[str, Any]) -> None:
    """Refuse a photo whose boxes belong to another size or orientation of it; reads its header."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is named in instances.json but does not exist")
    with Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TRANSPOSED:
            width, height = height, width
    expected = (record.get("width", width), record.get("height", height))
    if (width, height) != expected:
        raise ValueError(
            f"{path} is {width} x {height} pixels upright, but instances.json says "
            f"{expected[0]} x {expected[1]}"
        )
