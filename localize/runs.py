"""What a run over many pictures is: where its outputs go, what is finished, and what came of it.

Knows results, output files and settings; must not know the command line or terminals.
"""

from __future__ import annotations

import json
import os
import platform
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from localize.names import display_name

if TYPE_CHECKING:
    from localize.export import Answer, Found
    from localize.report import Card
    from localize.result import Localization
    from localize.watch import Locate, Watched

OVERLAY, HEATMAP, CROP, FACTS = ".boxes.png", ".heatmap.png", ".crop.png", ".json"

EXPORTS, CROPS, SKETCHES = "exports", "crops", ".report"
"""Folders in a run's own: for other tools' files, for what was found cut out, and for what the
report shows of each picture."""

REPORT, SUMMARY = "report.html", "run.json"
"""Files of the whole run, in its folder."""

SUMMARY_VERSION = 1

Overlays: TypeAlias = Literal["none", "boxes", "heatmaps"]

_LIBRARIES = (
    "torch transformers open_clip_torch openvino numpy pillow opencv-python scikit-image scipy"
).split()


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

    prompts: the labels, in their order.
    settings: what else the answers hang on, as plain data; JSON keeps it beside them.
    overlays: none, one with all boxes, or besides it a heatmap for each prompt.
    crops: whether what is found is cut out. report: whether small pictures for it are kept.
    """

    folder: Path
    prompts: tuple[str, ...]
    settings: Mapping[str, Any]
    overlays: Overlays = "boxes"
    crops: bool = False
    report: bool = False

    def files(self, output: Path) -> list[Path]:
        """What is written of any picture: overlays, what the report shows, at last its JSON.

        Of a video it is an annotated one, a line a frame, what the report shows, and JSON. Where
        there is JSON, the picture is finished.
        """
        sketches = [self._sketch(output)] if self.report else []
        if is_video(output):
            return [
                _annotated(output),
                _beside(output, ".jsonl"),
                *sketches,
                _beside(output, FACTS),
            ]
        overlays = [] if self.overlays == "none" else [_beside(output, OVERLAY)]
        if self.overlays == "heatmaps":
            overlays += _heatmaps(output, self.prompts)
        return [*overlays, *sketches, _beside(output, FACTS)]

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

    def prepare(self, tasks: Iterable[Task]) -> None:
        """Make the folder, and remove what killed runs have left half-written in it.

        Raises files.OutputError where nothing can be written there.
        """
        from localize import files

        files.make_folder(self.folder)
        own = [self.folder / name for name in (EXPORTS, CROPS, SKETCHES)]
        below = {Path(path) for folder in own for path, _, _ in os.walk(folder)}
        for folder in {self.folder, *below, *(task.output.parent for task in tasks)}:
            files.remove_abandoned(folder)

    def is_finished(self, task: Task) -> bool:
        """Whether an earlier run with the same settings has finished this picture as it is now."""
        return bool(self._finished(task))

    def _finished(self, task: Task) -> dict[str, Any]:
        """The JSON of a picture that is finished; nothing of another."""
        found = self._found(task)
        return found if found.get("problem") is None else {}

    def _found(self, task: Task) -> dict[str, Any]:
        """The same; also of a video that could not be read to its end."""
        *others, facts = self.files(task.output)
        found = _read_facts(facts)
        is_finished = (
            found.get("prompts") == list(self.prompts)
            and found.get("settings") == _plain(self.settings)
            and _seen_in(found) == task.seen
            and all(map(os.path.isfile, others))
            and (not self.crops or all(map(os.path.isfile, self._crops(task.output, found))))
        )
        return found if is_finished else {}

    def answers(self, tasks: Iterable[Task]) -> Iterator[Answer]:
        """What is on the disk of the pictures that are finished, read one by one; no videos."""
        return (answer for _, answer in self._answers(tasks))

    def _answers(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Answer]]:
        from localize.export import Answer

        for task in tasks:
            if not is_video(task.path) and (facts := self._finished(task)):
                name = task.output.relative_to(self.folder).as_posix()
                yield task, Answer.from_facts(facts, name)

    def watched(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Watched]]:
        """What is on the disk of the videos, also of those that could not be read to their ends."""
        from localize.watch import Watched

        for task in tasks:
            if is_video(task.path) and (facts := self._found(task)):
                yield task, Watched.from_facts(facts)

    def matching(self, tasks: Iterable[Task], here: bool) -> Iterator[Path]:
        """The pictures and videos that have a box of any prompt or, where `here` is False, none.

        A video that could not be read to its end may have what it does not show.
        """
        for task in tasks:
            facts = self._found(task)
            found = any(facts.get("spans", {}).values()) or bool(facts.get("boxes"))
            if facts and found is here and (found or facts.get("problem") is None):
                yield task.path

    def export(self, tasks: Iterable[Task], formats: Iterable[str]) -> None:
        """Write the pictures that are finished in formats of `export`, into the folder `EXPORTS`.

        Raises files.OutputError where a file cannot be written.
        """
        from localize.export import save_answers

        if formats := list(formats):
            save_answers(self.answers(tasks), formats, self.folder / EXPORTS)

    def write(self, task: Task, result: Localization) -> None:
        """Write the files of one picture together, and remove those of an earlier question.

        Raises files.OutputError where one cannot be written; then the old ones stay.
        """
        from localize import files

        facts = result.to_dict()
        facts["image"] |= task.seen
        facts["settings"] = dict(self.settings)
        crops = self._crops(task.output, facts) if self.crops else []
        written = [*crops, *self.files(task.output)]
        files.write_together(
            written, self._contents(result, facts), instead_of=self._stale(task.output, written)
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
        from localize.report import sketch
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
            sketch=sketch if self.report else None,
            progress=progress,
        )

    def _contents(self, result: Localization, facts: dict[str, Any]) -> Iterator[bytes]:
        """The contents of crops and of `files`, made one by one."""
        from localize.files import image_bytes, json_bytes

        if self.crops:
            yield from (image_bytes(result.crop(box)) for box in result.boxes)
        if self.overlays != "none":
            yield image_bytes(result.boxes_overlay())
        if self.overlays == "heatmaps":
            yield from (image_bytes(result.overlay(prompt)) for prompt in self.prompts)
        if self.report:
            from localize.report import sketch

            yield json_bytes(sketch(result))
        yield json_bytes(facts)

    def _stale(self, output: Path, written: Sequence[Path]) -> Iterator[Path]:
        """What a run with any outputs may have written of a picture, but for `written` and JSON.

        Found out only when the first is asked for: until then another run may write.
        """
        from localize.files import is_written_here

        facts = _read_facts(_beside(output, FACTS))
        if not facts:
            return
        prompts = facts.get("prompts")
        own = [*_heatmaps(output, prompts if isinstance(prompts, list) else [])]
        own += [*self._crops(output, facts), self._sketch(output)]
        overlay = _beside(output, OVERLAY)
        own += [overlay] if is_written_here(overlay) else []
        yield from (path for path in own if path not in written)

    def _sketch(self, output: Path) -> Path:
        return _beside(self.folder / SKETCHES / output.relative_to(self.folder), FACTS)

    def _crops(self, output: Path, facts: Mapping[str, Any]) -> list[Path]:
        """Where what was found is cut out to: a folder a prompt, and in it as pictures lie."""
        try:
            labels = [box["label"] for box in facts["boxes"]]
            prompts = [facts["prompts"].index(label) for label in labels]
        except (LookupError, TypeError, ValueError, AttributeError):  # Not as we write it.
            return []
        way = output.relative_to(self.folder)
        return [
            _beside(
                self.folder / CROPS / f"{prompt + 1}-{slug(str(label))}" / way, f".{number}{CROP}"
            )
            for number, (prompt, label) in enumerate(zip(prompts, labels, strict=True), 1)
        ]

    def summarize(
        self, tasks: Sequence[Task], failed: Sequence[str], asked: int, seconds: float
    ) -> Summary:
        """What is on the disk of a run that has ended, and write it there.

        failed: a sentence for each picture that could not be done. asked: how many pictures this
        process has done, in how many seconds.

        Raises files.OutputError where it cannot be written.
        """
        from localize import __version__
        from localize.export import totals
        from localize.files import write_json

        images, found = totals(self.answers(tasks), self.prompts)
        videos = [watched for _, watched in self.watched(tasks)]
        found = [_with_videos(each, videos) for each in found]
        summary = Summary(
            images, len(videos), tuple(found), tuple(failed), asked, round(seconds, 3)
        )
        plain = {
            "version": SUMMARY_VERSION,
            "prompts": list(self.prompts),
            "settings": dict(self.settings),
            "outputs": {"overlays": self.overlays, "crops": self.crops, "report": self.report},
            "versions": {"localize": __version__, "python": platform.python_version()}
            | dict(_installed(_LIBRARIES)),
            "images": images,
            "videos": len(videos),
            "found": [asdict(each) | {"not_here": summary.not_here(each)} for each in found],
            "failed": summary.failed,
            "speed": {
                "images": asked,
                "seconds": summary.seconds,
                "images_per_second": summary.images_per_second,
            },
        }
        write_json(self.folder / SUMMARY, plain)
        return summary

    def write_report(self, tasks: Sequence[Task], summary: Summary) -> None:
        """Write the page that shows the finished pictures of a run with `report`.

        Raises files.OutputError where it cannot be written.
        """
        from localize.files import write_bytes
        from localize.report import page

        write_bytes(
            self.folder / REPORT,
            page(
                self._cards(tasks),
                folder=self.folder,
                found=summary.found,
                images=summary.images,
                videos=summary.videos,
                failed=summary.failed,
            ),
        )

    def _cards(self, tasks: Sequence[Task]) -> Iterator[Card]:
        """What the report shows, in the order of the tasks: pictures, and frames of videos."""
        from localize.export import Answer
        from localize.report import Card, Moment

        for task in tasks:
            for _, answer in self._answers([task]):
                yield Card(answer, _read_facts(self._sketch(task.output)))
            for _, watched in self.watched([task]):
                name = task.output.relative_to(self.folder).as_posix()
                path = os.path.abspath(_annotated(task.output))
                for frame in _read_facts(self._sketch(task.output))["frames"]:
                    facts = frame["facts"] | {"image": frame["facts"]["image"] | {"path": path}}
                    moment = Moment(frame["time"], watched.seconds, watched.spans)
                    yield Card(Answer.from_facts(facts, name), frame, moment)

    def _refuse_to_overwrite(self, tasks: Iterable[Task]) -> None:
        written = {os.path.realpath(file) for task in tasks for file in self.files(task.output)}
        crops = os.path.join(os.path.realpath(self.folder), CROPS, "")
        for task in tasks:
            path = os.path.realpath(task.path)
            if path in written or (self.crops and path.startswith(crops)):
                raise ValueError(
                    f"{display_name(task.path)} is an image to be read, but an output of another "
                    "one would take its name; choose another folder for --output"
                )
            facts = _beside(task.output, FACTS)
            if facts == self.folder / SUMMARY:
                raise ValueError(
                    f"the answers for {display_name(task.path)} would have the name {SUMMARY}, "
                    "which is that of the run's summary; give the picture an ending"
                )
            earlier = _seen_in(_read_facts(facts))
            # A picture that was moved, folder and all, is the same one.
            if earlier and all(earlier[key] != task.seen[key] for key in ("path", "modified_ns")):
                raise ValueError(
                    f"{display_name(facts)} has the answers for {display_name(earlier['path'])}, "
                    f"another picture than {display_name(task.seen['path'])}; choose another "
                    "folder for --output, or remove them"
                )


@dataclass(frozen=True)
class Summary:
    """What came of a run.

    images, videos: how many are finished, by this process or an earlier one, and videos that could
    not be read to their ends. found: of each prompt.
    failed: a sentence for each picture that could not be done.
    asked: how many images this process has done, in how many seconds.
    """

    images: int
    videos: int
    found: tuple[Found, ...]
    failed: tuple[str, ...]
    asked: int
    seconds: float

    @property
    def images_per_second(self) -> float | None:
        """How quick this process was, None where it had nothing to do."""
        return round(self.asked / self.seconds, 3) if self.asked and self.seconds else None

    def not_here(self, found: Found) -> int:
        """In how many images and videos a prompt is not."""
        return self.images - found.images + self.videos - found.videos


def without_own(paths: Iterable[Path]) -> list[Path]:
    """The pictures that are not overlays or crops of an earlier run, into whatever folder."""
    from localize import files

    return [
        path
        for path in paths
        if not (path.name.endswith((OVERLAY, HEATMAP, CROP)) and files.is_written_here(path))
    ]


def is_video(path: Path) -> bool:
    """Whether a file is taken as a video, by its ending."""
    from localize.video import SUFFIXES

    return path.suffix.lower() in SUFFIXES


def slug(prompt: str) -> str:
    """A short form of a prompt that is safe in a file's name.

    Letters, figures and the marks that belong to them: without its vowel signs a word in Hindi is
    another word.
    """
    safe = ""
    for char in unicodedata.normalize("NFC", prompt.lower()):
        is_mark = unicodedata.category(char).startswith("M") and safe[-1:] not in ("", "-")
        safe += char if char.isalnum() or is_mark else "-"
    return safe[:40].strip("-") or "prompt"


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(output.name + ending)


def _annotated(output: Path) -> Path:
    return _beside(output, ".boxes.mp4")


def _with_videos(found: Found, videos: Sequence[Watched]) -> Found:
    seconds = [shown for watched in videos if (shown := watched.shown(found.prompt))]
    return replace(found, videos=len(seconds), seconds=round(sum(seconds, 0.0), 3))


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


def _installed(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The versions of those libraries that are there; none is imported for it."""
    for name in names:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
