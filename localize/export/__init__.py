"""Results -> files of the formats that other tools read, one module a format.

Knows answers and formats; must not know models, nor how pictures are found. Each format is a
function of the answers, which it may go through more than once, all their labels and the folder
that the export goes to (for what must name a place); it gives the names of its files below that
folder, and their contents, whole or in pieces, or what they are links to. Answers are gone through
one by one, so that memory does not grow with their number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from localize.export import coco, createml, label_studio, labelme, tables, voc, yolo
from localize.export.answers import Answer, Found, kept, totals
from localize.export.links import Link
from localize.files import write_bytes, write_link
from localize.result import Localization

__all__ = ["FORMATS", "Answer", "Found", "Link", "save", "save_answers", "totals"]

Content = bytes | Iterable[bytes] | Link
Format = Callable[[Iterable[Answer], Sequence[str], str], Iterator[tuple[str, Content]]]

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


def save_answers(
    answers: Iterable[Answer], names: str | Iterable[str], folder: str | os.PathLike[str]
) -> None:
    """`save`, of answers that know their pictures' names, in one format or several.

    The answers are asked for once and one by one.
    """
    names = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in names if name not in FORMATS]:
        raise ValueError(f"{unknown[0]!r} is no export; there are {', '.join(FORMATS)}")
    with kept(answers) as all_answers:
        for name in names:
            for file, content in FORMATS[name](
                all_answers, all_answers.labels, os.fsdecode(folder)
            ):
                target = os.path.join(os.fsdecode(folder), *file.split("/"))
                if isinstance(content, Link):
                    write_link(target, content.path)
                else:
                    write_bytes(target, content)
