"""Folders in COCO's layout (``images/`` and ``instances.json``) as samples.

Knows the file format; knows no model and no metric. Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from localize.evaluation.samples import Sample, Truth

ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSED = (5, 6, 7, 8)  # its values that swap width and height


@dataclass
class _Photo:
    """One record of ``images`` with its annotations; size is (width, height) where it is given.

    masks: what COCO calls the segmentation of each; empty where it has none.
    """

    file: str
    size: tuple[int, int] | None
    labels: list[str] = field(default_factory=list)
    xyxy: list[list[float]] = field(default_factory=list)
    iscrowd: list[bool] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)


def read_coco(folder: str | Path) -> list[Sample]:
    """Read ``folder/instances.json``; every category's name is asked of every photo.

    Samples come in the order of the file's images; of a photo nothing but the header is read. Boxes
    go from COCO's x, y, width, height to corners; those without any area are left out. A photo has
    masks where all of its annotations have a segmentation, in a file where some have; where masks
    lie on one another, the smaller one is in front.

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
    segmented = any(map(any, (photo.masks for photo in photos)))
    return [_sample(folder / "images" / photo.file, photo, names, segmented) for photo in photos]


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
            photo.masks.append(_checked_mask(record.get("segmentation")))
    return tuple(dict.fromkeys(names.values())), list(photos.values())


def _checked_mask(segmentation: Any) -> Any:
    """A segmentation in one of COCO's three forms, or () where there is none.

    Polygons [[x, y, x, y, x, y, ...], ...], or runs {"size": [height, width], "counts": ...}, whose
    counts are numbers or, compressed, a text. Raises ValueError for anything else.
    """
    if not segmentation:
        return ()
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
                raise ValueError(f"a polygon is a list of x, y, x, y, x, y, ..., not {polygon!r}")
        return segmentation
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    if not isinstance(counts, str) and sum(counts) != height * width:
        raise ValueError(f"the counts of a mask of {height} x {width} pixels come to {sum(counts)}")
    return segmentation


def _masks(path: Path, segmentations: list[Any], width: int, height: int) -> npt.NDArray[np.int16]:
    """Which of the segmentations each pixel belongs to, int16 (height, width), -1 for none.

    Raises ValueError, naming the photo, for a mask of another size or with runs that fit none.
    """
    masks = [_mask(path, each, width, height) for each in segmentations]
    shown = np.full((height, width), -1, np.int16)
    for number in sorted(range(len(masks)), key=lambda number: -int(masks[number].sum())):
        shown[masks[number]] = number
    return shown


def _mask(path: Path, segmentation: Any, width: int, height: int) -> npt.NDArray[np.bool_]:
    from pycocotools import mask

    runs = segmentation
    if isinstance(runs, dict) and tuple(runs["size"]) != (height, width):
        raise ValueError(
            f"{path} is {width} x {height} pixels, but instances.json has a mask of "
            f"{runs['size'][1]} x {runs['size'][0]}"
        )
    try:
        if isinstance(runs, list):
            runs = mask.merge(mask.frPyObjects(runs, height, width))
        elif not isinstance(runs["counts"], str):
            runs = mask.frPyObjects(runs, height, width)
        return np.asarray(mask.decode(runs), bool)
    except (ValueError, TypeError) as error:
        raise ValueError(f"a mask of {path} cannot be read ({error})") from error


def _sample(path: Path, photo: _Photo, prompts: tuple[str, ...], segmented: bool) -> Sample:
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
    if not segmented or not all(photo.masks):
        return Sample(path, truth)
    return Sample(path, truth, partial(_masks, path, photo.masks, *size))


def _upright_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(ORIENTATION) in TRANSPOSED
    return (height, width) if turned else (width, height)
