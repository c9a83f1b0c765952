"""One picture's answers, as every export reads them.

Knows results and the JSON that a run keeps of them; must not know any format of other tools.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from localize.result import Box, Localization


@dataclass(frozen=True)
class Answer:
    """The answers for one picture.

    name: where the picture lies below the pictures' common folder, with "/" between folders.
    path: its whole path, None where it came from no file.
    width, height: of the upright picture, in pixels. model: the encoder's name.
    presence: of each prompt, in [0, 1]. boxes: best first, in whole pixels of the upright picture.
    """

    name: str
    path: str | None
    width: int
    height: int
    model: str
    presence: dict[str, float]
    boxes: tuple[Box, ...]

    @classmethod
    def of(cls, result: Localization, name: str | None = None) -> Answer:
        """Of a result. name: None for the name of its file."""
        source = result.source
        path = str(source) if isinstance(source, str) or hasattr(source, "__fspath__") else None
        facts = result.to_dict()
        facts["image"]["path"] = path
        return cls.from_facts(facts, name or result.file or "picture")

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], name: str) -> Answer:
        """Of the JSON that was written of a result."""
        image = facts["image"]
        corners = ("xmin", "ymin", "xmax", "ymax")
        return cls(
            name=name,
            path=image.get("path"),
            width=image["width"],
            height=image["height"],
            model=facts["model"],
            presence=dict(zip(facts["prompts"], facts["presence"], strict=True)),
            boxes=tuple(
                Box(each["label"], each["score"], tuple(each["box"][corner] for corner in corners))
                for each in facts["boxes"]
            ),
        )


class KeptAnswers:
    """Answers in a file, a line each, that can be read again and again while memory holds one.

    labels: all that were asked for, in the order of their first answers.
    """

    def __init__(self, path: Path, answers: Iterable[Answer]) -> None:
        labels: dict[str, None] = {}
        with open(path, "w", encoding="ascii") as file:
            for answer in answers:
                labels |= dict.fromkeys(answer.presence)
                file.write(json.dumps(asdict(answer)) + "\n")
        self._path, self.labels = path, tuple(labels)

    def __iter__(self) -> Iterator[Answer]:
        with open(self._path, encoding="ascii") as file:
            for line in file:
                facts = json.loads(line)
                boxes = facts.pop("boxes")
                yield Answer(
                    **facts,
                    boxes=tuple(Box(b["label"], b["score"], tuple(b["xyxy"])) for b in boxes),
                )


@contextmanager
def kept(answers: Iterable[Answer]) -> Iterator[KeptAnswers]:
    """Answers, asked for once, to be read as often as there are formats; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="localize-") as folder:
        yield KeptAnswers(Path(folder) / "answers", answers)


@dataclass(frozen=True)
class Found:
    """What many answers say of one prompt.

    images: those with boxes of it. videos: those that show it, for `seconds` in all.
    """

    prompt: str
    images: int
    boxes: int
    videos: int = 0
    seconds: float = 0.0


class WithBoxes(Protocol):
    """An `Answer`, or whatever else has boxes."""

    @property
    def boxes(self) -> Sequence[Box]: ...


def totals(answers: Iterable[WithBoxes], prompts: Sequence[str]) -> tuple[int, list[Found]]:
    """How many answers there are, and what they say of each prompt; they are read one by one."""
    count, images, boxes = 0, Counter[str](), Counter[str]()
    for answer in answers:
        labels = [box.label for box in answer.boxes]
        count += 1
        boxes.update(labels)
        images.update(set(labels))
    return count, [Found(each, images[each], boxes[each]) for each in dict.fromkeys(prompts)]
