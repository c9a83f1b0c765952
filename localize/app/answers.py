"""A result as the page shows it, and as the files that it gives.

Knows results, exports and small pictures; must not know HTTP or models.
"""

from __future__ import annotations

import zipfile
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from localize.app.uploads import Upload
from localize.export import FORMATS, Answer, Link
from localize.files import image_bytes, json_bytes
from localize.names import printable
from localize.render import in_words
from localize.render.colours import colour_of, heat_alone
from localize.result import Localization
from localize.serve.refusal import RefusalError

DOWNLOADS = ("json", "overlay", *FORMATS)
"""What a page can be given: a result's JSON, its overlays, and every export."""


def shown(result: Localization) -> dict[str, Any]:
    """What the page draws: of each prompt its map, its presence in words and its boxes.

    Boxes are in pixels of the upright picture.
    """
    counts = Counter(box.label for box in result.boxes)
    numbers = {label: number for number, label in enumerate(result.prompts)}
    return {
        "prompts": [
            {
                "label": printable(label),
                "presence": round(presence, 4),
                "says": in_words(counts[label], presence),
                "colour": "rgb({}, {}, {})".format(*colour_of(number)),
                "map": _data_address(heat),
            }
            for number, (label, presence, heat) in enumerate(
                zip(result.prompts, result.presence.tolist(), result.maps, strict=True)
            )
        ],
        "boxes": [
            {
                "prompt": numbers[box.label],
                "score": round(box.score, 4),
                "xyxy": [round(edge, 1) for edge in box.xyxy],
            }
            for box in result.boxes
        ],
    }


def download(result: Localization, kind: str, upload: Upload) -> tuple[str, bytes]:
    """The name and the bytes of a file with the answers, a ZIP archive where they are several.

    kind: one of `DOWNLOADS`; RefusalError (404) is raised for others.
    """
    if kind not in DOWNLOADS:
        raise RefusalError(404, f"there is no download {kind}; there are {', '.join(DOWNLOADS)}")
    stem = PurePosixPath(upload.name).stem
    named = replace(result, file=upload.name, source=None)
    if kind == "json":
        return f"{stem}.json", json_bytes(named.to_dict())
    files = dict(_overlays(named, stem) if kind == "overlay" else _exported(named, kind, upload))
    if len(files) == 1:
        ((name, data),) = files.items()
        return PurePosixPath(name).name, data
    return f"{stem}-{kind}.zip", _zipped(files)


def _overlays(result: Localization, stem: str) -> Iterator[tuple[str, bytes]]:
    """The heatmap of each prompt, and for several prompts all boxes on one picture."""
    if len(result.prompts) > 1:
        yield f"{stem}-boxes.png", image_bytes(result.boxes_overlay())
    for number, prompt in enumerate(result.prompts, 1):
        ending = f"-{number}" if len(result.prompts) > 1 else ""
        yield f"{stem}{ending}.png", image_bytes(result.overlay(prompt))


def _exported(result: Localization, kind: str, upload: Upload) -> Iterator[tuple[str, bytes]]:
    """The files of an export. Where it links to the picture, the picture is among them."""
    answer = Answer.of(result, upload.name)
    if kind == "yolo":
        answer = replace(answer, path=upload.name)
    for name, content in FORMATS[kind]([answer], result.prompts, ""):
        if isinstance(content, Link):
            yield name, upload.data
            continue
        whole = content if isinstance(content, bytes) else b"".join(content)
        if name == "yolo/data.yaml":  # Without a path trainers take the folder that it lies in.
            whole = whole.partition(b"\n")[2]
        yield name, whole


def _zipped(files: Mapping[str, bytes]) -> bytes:
    data = BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def _data_address(relevance: Any) -> str:
    file = BytesIO()
    Image.fromarray(heat_alone(relevance.clip(0, 1))).save(file, "WEBP", quality=70, method=0)
    return "data:image/webp;base64," + b64encode(file.getvalue()).decode()
