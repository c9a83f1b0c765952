"""YOLO's folder: ``data.yaml``, ``labels/`` and, as that is where trainers look, ``images/``.

A label file has a line a box: the class's number from 0, and the centre, width and height of the
box as fractions of the picture (docs.ultralytics.com, "Object Detection Datasets"). Trainers find a
picture's labels by exchanging the folder and the ending, so pictures that differ by their ending
alone get names of their own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from localize.export.answers import Answer
from localize.export.links import Link


def write(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, bytes | Link]]:
    """The labels and a link to the picture of each answer, and at last ``data.yaml``."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    taken: set[str] = set()
    for answer in answers:
        name = _own_stem(answer.name, taken)
        lines = []
        for box in answer.boxes:
            left, top, right, bottom = box.xyxy
            x, y = (left + right) / 2 / answer.width, (top + bottom) / 2 / answer.height
            width, height = (right - left) / answer.width, (bottom - top) / answer.height
            lines.append(f"{numbers[box.label]} {x:.8f} {y:.8f} {width:.8f} {height:.8f}\n")
        yield f"yolo/labels/{name.with_suffix('.txt')}", "".join(lines).encode()
        if answer.path is not None:
            yield f"yolo/images/{name}", Link(answer.path)
    # JSON is YAML, and quotes whatever a label may hold.
    classes = "".join(f"  {number}: {json.dumps(label)}\n" for label, number in numbers.items())
    whole = json.dumps(os.path.abspath(os.path.join(folder, "yolo")))
    head = f"path: {whole}\ntrain: images\nval: images\nnames:\n"
    yield "yolo/data.yaml", (head + classes).encode()


def _own_stem(name: str, taken: set[str]) -> PurePosixPath:
    """A name whose stem no other picture of its folder has."""
    path = PurePosixPath(name)
    while str(path.with_suffix("")).casefold() in taken:
        path = path.with_name(f"{path.stem}-{path.suffix[1:] or 'x'}{path.suffix}")
    taken.add(str(path.with_suffix("")).casefold())
    return path
