"""Folders in COCO's layout (``images/`` and ``instances.json``) as samples.

Knows the file format; knows no model and no metric. Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from localize.evaluation.samples import Sample, Truth

ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSED = (5, 6, 7, 8)  # its values that swap width and height


@dataclass
class _Photo:
    """One record of ``images`` with its annotations; size is (width, height) where it is given."""

    file: str
    size: tuple[int, int] | None
    labels: list[str] = field(default_factory=list)
    xyxy: list[list[float]] = field(default_factory=list)
    iscrowd: list[bool] = field(default_factory=list)


def read_coco(folder: str | Path) -> list[Sample]:
    """Read ``folder/instances.json``; every category's name is asked of every photo.

    Samples come in the order of the file's images; of a photo nothing but the header is read. Boxes
    go from COCO's x, y, width, height to corners; those without any area are left out.

    Raises FileNotFoundError where instances.json or a photo is missing; ValueError where the JSON
    is not COCO's, or where a photo, upright, has another size than its record says (its boxes would
    lie elsewhere); OSError where a photo cannot be read.
    """
    folder = Path(folder)
    path = folder / "instances.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no COCO folder: it should hold instances.json and images/"
        )
    try:
        names, photos = _parse(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not in COCO's format of images, annotations and categories "
            f"({type(error).__name__}: {error})"
        ) from error
    return [_sample(folder / "images" / photo.file, photo, names) for photo in photos]


def _parse(text: str) -> tuple[tuple[str, ...], list[_Photo]]:
    """The categories' names and the photos, in the order of the file."""
    records = json.loads(text)
    names = {record["id"]: str(record["name"]) for record in records["categories"]}
    photos: dict[int, _Photo] = {}
    for record in records["images"]:
        size = (record["width"], record["height"]) if "width" in record else None
        photos[record["id"]] = _Photo(str(record["file_name"]), size)
    for record in records["annotations"]:
        x, y, width, height = map(float, record["bbox"])
        photo = photos[record["image_id"]]
        if width > 0 and height > 0:
            photo.labels.append(names[record["category_id"]])
            photo.xyxy.append([x, y, x + width, y + height])
            photo.iscrowd.append(bool(record.get("iscrowd", 0)))
    return tuple(dict.fromkeys(names.values())), list(photos.values())


def _sample(path: Path, photo: _Photo, prompts: tuple[str, ...]) -> Sample:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is named in instances.json but does not exist")
    size = _upright_size(path)
    if photo.size is not None and photo.size != size:
        raise ValueError(
            f"{path} is {size[0]} x {size[1]} pixels upright, but instances.json says "
            f"{photo.size[0]} x {photo.size[1]}"
        )
    truth = Truth(
        file=photo.file,
        labels=tuple(photo.labels),
        xyxy=np.array(photo.xyxy, np.float64).reshape(-1, 4),
        iscrowd=np.array(photo.iscrowd, bool),
        prompts=prompts,
    )
    return Sample(path, truth)


def _upright_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION) in TRANSPOSED
    return (height, width) if turned else (width, height)
