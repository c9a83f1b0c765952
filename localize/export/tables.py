"""Plain tables: a row a box, or a line a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from localize.export.answers import Answer
from localize.export.pieces import as_json

COLUMNS = ("file", "label", "presence", "score", "xmin", "ymin", "xmax", "ymax", "width", "height")


def rows(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """``boxes.csv``: a row a box. A prompt without boxes has one row whose score and corners are
    empty, so that what is "not here" is told too."""
    yield "boxes.csv", chain([_csv([COLUMNS])], (_csv(_rows(answer)) for answer in answers))


def lines(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """``results.jsonl``: a line a picture, with all that is known of it."""
    yield "results.jsonl", (as_json(_line(answer)) + b"\n" for answer in answers)


def _rows(answer: Answer) -> Iterator[list[object]]:
    for label, presence in answer.presence.items():
        found: list[list[object]] = [
            [box.score, *box.xyxy] for box in answer.boxes if box.label == label
        ]
        for values in found or [[""] * 5]:
            yield [answer.name, label, presence, *values, answer.width, answer.height]


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _line(answer: Answer) -> dict[str, Any]:
    return {
        "file": answer.name,
        "width": answer.width,
        "height": answer.height,
        "model": answer.model,
        "presence": answer.presence,
        "boxes": [
            {"label": box.label, "score": box.score, "xyxy": list(box.xyxy)} for box in answer.boxes
        ],
    }
