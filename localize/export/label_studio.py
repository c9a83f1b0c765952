"""Label Studio's tasks with predictions, and the labelling configuration that fits them.

Regions are in percent of the picture (labelstud.io/guide/predictions). Pictures are named as local
files below the pictures' common folder, which is to be Label Studio's document root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from localize.export.answers import Answer
from localize.export.pieces import json_array
from localize.names import printable
from localize.result import Box

FROM, TO = "label", "image"


def write(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, bytes | Iterable[bytes]]]:
    """``label-studio.json`` to import, and ``label-studio.xml`` as the project's configuration."""
    yield "label-studio.json", json_array(map(_task, answers))
    names = "".join(
        f"    <Label value={quoteattr(printable(label))}/>\n" for label in dict.fromkeys(labels)
    )
    config = (
        f'<View>\n  <Image name="{TO}" value="$image"/>\n'
        f'  <RectangleLabels name="{FROM}" toName="{TO}">\n{names}  </RectangleLabels>\n</View>\n'
    )
    yield "label-studio.xml", config.encode("utf-8", "backslashreplace")


def region(box: Box, width: int, height: int) -> dict[str, Any]:
    """A box as one region of a prediction. width, height: of the upright picture, in pixels."""
    left, top, right, bottom = box.xyxy
    return {
        "from_name": FROM,
        "to_name": TO,
        "type": "rectanglelabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": box.score,
        "value": {
            "x": 100 * left / width,
            "y": 100 * top / height,
            "width": 100 * (right - left) / width,
            "height": 100 * (bottom - top) / height,
            "rotation": 0,
            "rectanglelabels": [box.label],
        },
    }


def _task(answer: Answer) -> dict[str, Any]:
    regions = [region(box, answer.width, answer.height) for box in answer.boxes]
    return {
        "data": {"image": f"/data/local-files/?d={quote(answer.name, errors='surrogateescape')}"},
        "predictions": [
            {
                "model_version": answer.model,
                "score": max((box.score for box in answer.boxes), default=0.0),
                "result": regions,
            }
        ],
    }
