"""Results -> files of the formats that other tools read, one module a format.

Knows answers and formats; must not know models, nor how pictures are found. Each format is a
function of the answers, all their labels and the folder that the export goes to (for what must name
a place); it gives the names of its files below that folder, and their contents or what they are
links to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from localize.export import coco, createml, label_studio, labelme, tables, voc, yolo
from localize.export.answers import Answer, Found, totals
from localize.export.links import Link
from localize.files import write_bytes, write_link
from localize.result import Localization

__all__ = ["FORMATS", "Answer", "Found", "Link", "save", "save_answers", "totals"]

Format = Callable[[Iterable[Answer], Sequence[str], str], Iterator[tuple[str, bytes | Link]]]

FORMATS: dict[str, Format] = {
    "coco": coco.dataset,
    "coco-results": coco.results,
    "yolo": yolo.write,
    "voc": voc.write,
    "labelme": labelme.write,
    "label-studio": label_studio.write,
    "createml": createml.write,
    "csv": tables.rows,
    "jsonl": tables.lines,
}


def save(results: Iterable[Localization], name: str, folder: str | os.PathLike[str]) -> None:
    """Write results in one of `FORMATS` into a folder, each file whole or not at all.

    Pictures go by the names of their files. Raises ValueError for a format that is not known and
    where two pictures have one name, and files.OutputError where a file cannot be written.
    """
    answers = [Answer.of(result) for result in results]
    names = [answer.name for answer in answers]
    if doubled := next((each for each in names if names.count(each) > 1), None):
        raise ValueError(
            f"two pictures are called {doubled!r}; export.save_answers takes a name for each"
        )
    save_answers(answers, name, folder)


def save_answers(answers: Iterable[Answer], name: str, folder: str | os.PathLike[str]) -> None:
    """`save`, of answers that know their pictures' names."""
    if name not in FORMATS:
        raise ValueError(f"{name!r} is no export; there are {', '.join(FORMATS)}")
    answers = list(answers)
    labels = list(dict.fromkeys(label for answer in answers for label in answer.presence))
    for file, content in FORMATS[name](answers, labels, os.fsdecode(folder)):
        target = os.path.join(os.fsdecode(folder), *file.split("/"))
        if isinstance(content, Link):
            write_link(target, content.path)
        else:
            write_bytes(target, content)
