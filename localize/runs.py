"""What a run over many pictures is: where its outputs go, and what is finished.

Knows results, output files and settings; must not know the command line or terminals.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localize.names import display_name

if TYPE_CHECKING:
    from localize.export import Answer
    from localize.result import Localization
    from localize.watch import Locate, Watched

OVERLAY, HEATMAP, FACTS = ".boxes.png", ".heatmap.png", ".json"

EXPORTS = "exports"
"""The folder, in a run's own, that files for other tools go to."""


@dataclass(frozen=True)
class Task:
    """One picture of a run.

    path: its file. output: what the names of its outputs begin with.
    seen: its whole path, its bytes and the nanosecond of its last change, before it was read.
    """

    path: Path
    output: Path
    seen: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One question asked of many pictures, and the folder that its answers go to.

    prompts: the labels, in their order. heatmaps: whether each prompt's overlay is written too.
    settings: what else the answers hang on, as plain data; JSON keeps it beside them.
    """

    folder: Path
    prompts: tuple[str, ...]
    heatmaps: bool
    settings: Mapping[str, Any]

    def files(self, output: Path) -> list[Path]:
        """What is written of one picture: its overlay, each prompt's heatmap, at last its JSON.

        Of a video it is an annotated one, a line a frame and JSON. Where there is JSON, the picture
        is finished.
        """
        if is_video(output):
            return [_beside(output, ending) for ending in (".boxes.mp4", ".jsonl", FACTS)]
        heatmaps = _heatmaps(output, self.prompts) if self.heatmaps else []
        return [_beside(output, OVERLAY), *heatmaps, _beside(output, FACTS)]

    def tasks(self, paths: Iterable[Path]) -> list[Task]:
        """The pictures to be read, each with its place below the inputs' common folder.

        Raises ValueError where an output would have the path of a picture that is to be read, or
        take the place of another picture's answers.
        """
        absolute = {path: Path(os.path.abspath(path)) for path in paths}
        if not absolute:
            return []
        common = os.path.commonpath([path.parent for path in absolute.values()])
        tasks = [
            Task(path, self.folder / full.relative_to(common), _seen(full))
            for path, full in absolute.items()
        ]
        self._refuse_to_overwrite(tasks)
        return tasks

    def is_finished(self, task: Task) -> bool:
        """Whether an earlier run with the same settings has finished this picture as it is now."""
        *overlays, facts = self.files(task.output)
        found = _read_facts(facts)
        return (
            found.get("prompts") == list(self.prompts)
            and found.get("settings") == _plain(self.settings)
            and _seen_in(found) == task.seen
            and all(map(os.path.isfile, overlays))
            and found.get("problem") is None
        )

    def answers(self, tasks: Iterable[Task]) -> Iterator[Answer]:
        """What is on the disk of the pictures that are finished, read one by one."""
        from localize.export import Answer

        for task in tasks:
            if not is_video(task.path) and self.is_finished(task):
                facts = _read_facts(_beside(task.output, FACTS))
                yield Answer.from_facts(facts, task.output.relative_to(self.folder).as_posix())

    def export(self, tasks: Iterable[Task], formats: Iterable[str]) -> None:
        """Write the pictures that are finished in formats of `export`, into the folder `EXPORTS`.

        Raises files.OutputError where a file cannot be written.
        """
        from localize.export import save_answers

        tasks = list(tasks)
        for name in formats:
            save_answers(self.answers(tasks), name, self.folder / EXPORTS)

    def write(self, task: Task, result: Localization) -> None:
        """Write the files of one picture together, and remove heatmaps of an earlier question.

        Raises files.OutputError where one cannot be written; then the old ones stay.
        """
        from localize import files

        written = self.files(task.output)
        earlier = _read_facts(written[-1]).get("prompts")
        stale = _heatmaps(task.output, earlier if isinstance(earlier, list) else [])
        files.write_together(
            written,
            self._contents(task, result),
            instead_of=[path for path in stale if path not in written],
        )

    def watch(
        self,
        task: Task,
        locate: Locate,
        *,
        every: float,
        max_pixels: int,
        progress: Callable[[], object],
    ) -> Watched:
        """Locate the frames of a video and write its files; see `watch.watch`."""
        from localize.watch import watch

        facts = {
            "image": {"file": task.path.name, **task.seen},
            "prompts": list(self.prompts),
            "settings": dict(self.settings),
        }
        return watch(
            task.path,
            self.files(task.output),
            locate,
            every=every,
            max_pixels=max_pixels,
            facts=facts,
            progress=progress,
        )

    def _contents(self, task: Task, result: Localization) -> Iterator[bytes]:
        """The contents of `files`, made one by one."""
        from localize.files import image_bytes, json_bytes

        yield image_bytes(result.boxes_overlay())
        for prompt in self.prompts if self.heatmaps else ():
            yield image_bytes(result.overlay(prompt))
        facts = result.to_dict()
        facts["image"] |= task.seen
        yield json_bytes({**facts, "settings": dict(self.settings)})

    def _refuse_to_overwrite(self, tasks: Iterable[Task]) -> None:
        written = {os.path.realpath(file) for task in tasks for file in self.files(task.output)}
        for task in tasks:
            if os.path.realpath(task.path) in written:
                raise ValueError(
                    f"{display_name(task.path)} is an image to be read, but an output of another "
                    "one would take its name; choose another folder for --output"
                )
            facts = _beside(task.output, FACTS)
            earlier = _seen_in(_read_facts(facts))
            # A picture that was moved, folder and all, is the same one.
            if earlier and all(earlier[key] != task.seen[key] for key in ("path", "modified_ns")):
                raise ValueError(
                    f"{display_name(facts)} has the answers for {display_name(earlier['path'])}, "
                    f"another picture than {display_name(task.seen['path'])}; choose another "
                    "folder for --output, or remove them"
                )


def without_own(paths: Iterable[Path]) -> list[Path]:
    """The pictures that are not overlays of an earlier run, into whatever folder."""
    from localize import files

    return [
        path
        for path in paths
        if not (path.name.endswith((OVERLAY, HEATMAP)) and files.is_written_here(path))
    ]


def is_video(path: Path) -> bool:
    """Whether a file is taken as a video, by its ending."""
    from localize.video import SUFFIXES

    return path.suffix.lower() in SUFFIXES


def slug(prompt: str) -> str:
    """A short form of a prompt that is safe in a file's name."""
    safe = "".join(letter if letter.isalnum() else "-" for letter in prompt.lower())
    return safe[:40].strip("-") or "prompt"


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(output.name + ending)


def _heatmaps(output: Path, prompts: Iterable[Any]) -> list[Path]:
    return [
        _beside(output, f".{number}-{slug(str(prompt))}{HEATMAP}")
        for number, prompt in enumerate(prompts, 1)
    ]


def _seen(path: Path) -> dict[str, Any]:
    """What tells a picture from another: by these, and not by being newer or older, is it known."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # Reading it will say why.
        return {"path": str(path), "bytes": None, "modified_ns": None}
    return {"path": str(path), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _seen_in(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What `_seen` said of the picture that JSON is of; nothing where it does not say."""
    image = facts.get("image")
    keys = ("path", "bytes", "modified_ns")
    if not isinstance(image, dict) or not all(key in image for key in keys):
        return {}
    return {key: image[key] for key in keys}


def _read_facts(path: Path) -> dict[str, Any]:
    """The JSON of an earlier run; nothing where there is none, or it is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _plain(settings: Mapping[str, Any]) -> Any:
    """The settings as JSON gives them back."""
    return json.loads(json.dumps(dict(settings)))
