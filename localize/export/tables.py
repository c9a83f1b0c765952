"""Plain tables: a row a box, or a line a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence

from localize.export.answers import Answer

COLUMNS = ("file", "label", "presence", "score", "xmin", "ymin", "xmax", "ymax", "width", "height")


def rows(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, bytes]]:
    """``boxes.csv``: a row a box. A prompt without boxes has one row whose score and corners are
    empty, so that what is "not here" is told too."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for answer in answers:
        for label, presence in answer.presence.items():
            found: list[list[object]] = [
                [box.score, *box.xyxy] for box in answer.boxes if box.label == label
            ]
            for values in found or [[""] * 5]:
                size = (answer.width, answer.height)
                table.writerow([answer.name, label, presence, *values, *size])
    yield "boxes.csv", text.getvalue().encode("utf-8", "backslashreplace")


def lines(
    answers: Iterable[Answer], labels: Sequence[str], folder: str
) -> Iterator[tuple[str, bytes]]:
    """``results.jsonl``: a line a picture, with all that is known of it."""
    text = "".join(
        json.dumps(
            {
                "file": answer.name,
                "width": answer.width,
                "height": answer.height,
                "model": answer.model,
                "presence": answer.presence,
                "boxes": [
                    {"label": box.label, "score": box.score, "xyxy": list(box.xyxy)}
                    for box in answer.boxes
                ],
            },
            ensure_ascii=False,
        )
        + "\n"
        for answer in answers
    )
    yield "results.jsonl", text.encode("utf-8", "backslashreplace")
