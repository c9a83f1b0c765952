"""One question asked of a video: its frames located, and what is written of them.

Knows videos, results and output files; must not know models or terminals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from localize import files
from localize.names import display_name, printable
from localize.result import Localization
from localize.video import Frame, VideoError, VideoWriter, frames, spans

SURER = 0.02
"""By so much a box must be surer for its frame to be shown instead of an earlier one."""

Locate = Callable[[Iterable[Any]], Iterator[Localization]]


@dataclass(frozen=True)
class Watched:
    """What a video showed.

    frames: how many were looked at. seconds: the time of the last one.
    spans: for each prompt from when to when it has a box, in seconds.
    problem: why the video could not be read to its end, None if it was.
    """

    frames: int
    seconds: float
    spans: dict[str, list[tuple[float, float]]]
    problem: str | None

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Watched:
        """Of the JSON that was written of it."""
        spans = {
            prompt: [(start, end) for start, end in found]
            for prompt, found in facts["spans"].items()
        }
        return cls(facts["frames"], facts["seconds"], spans, facts["problem"])

    def shown(self, prompt: str) -> float:
        """For how many seconds a prompt has a box."""
        return sum(end - start for start, end in self.spans.get(prompt, []))


def watch(
    path: Path,
    outputs: Sequence[Path],
    locate: Locate,
    *,
    every: float,
    max_pixels: int,
    facts: Mapping[str, Any],
    sketch: Callable[[Localization], Mapping[str, Any]] | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Watched:
    """Locate the frames of a video, one each `every` seconds, and write what was found of them.

    outputs: the files to be written: an annotated video, a line a frame, with `sketch` the frames
        worth showing, and at last JSON with the spans; where there is this, all is there.
    locate: gives the results of pictures in their order, as `Localizer.locate_many` does.
    facts: what else the JSON is to say.
    sketch: what is to be kept of a frame worth showing, besides its time and answers.
    progress: called after each frame.

    A video that ends early has files of what could be read. Raises VideoError where no frame could
    be, and files.OutputError where a file cannot be written.
    """
    times: list[float] = []
    problem: list[str] = []

    def pictures() -> Iterator[Any]:
        try:
            for frame in frames(path, every, max_pixels=max_pixels):
                times.append(frame.time)
                yield frame.pixels
        except VideoError as error:
            if not times:
                raise
            problem.append(str(error))

    here: dict[str, list[bool]] = {}
    worth_showing = _WorthShowing(sketch)
    with files.together(outputs) as (annotated, lines, *sketches, whole):
        with VideoWriter(annotated, every) as writer, open(lines, "w", encoding="utf-8") as log:
            for number, result in enumerate(locate(pictures())):
                overlay = np.asarray(result.boxes_overlay(legend=False))
                writer.write(Frame(times[number], overlay))
                found = result.to_dict()
                row = {key: found[key] for key in ("prompts", "presence", "boxes")}
                log.write(_line({"time": round(times[number], 3), **row}))
                worth_showing.add(round(times[number], 3), result)
                labels = {box.label for box in result.boxes}
                for prompt in result.prompts:
                    here.setdefault(prompt, []).append(prompt in labels)
                progress()
        watched = Watched(
            frames=len(times),
            seconds=times[-1],
            spans={prompt: spans(times, seen, every) for prompt, seen in here.items()},
            problem=problem[0] if problem else None,
        )
        if sketches:
            kept = {"frames": worth_showing.frames}
            Path(sketches[0]).write_bytes(files.json_bytes(kept))
        Path(whole).write_bytes(files.json_bytes({**facts, **asdict(watched)}))
    return watched


class _WorthShowing:
    """Of each prompt the frame with its surest box, the first of those about as sure; the first
    frame where nothing is found."""

    def __init__(self, sketch: Callable[[Localization], Mapping[str, Any]] | None) -> None:
        """sketch: None to keep none."""
        self._sketch = sketch
        self._surest: dict[str, tuple[float, float]] = {}
        self._frames: dict[float, dict[str, Any]] = {}

    def add(self, time: float, result: Localization) -> None:
        if self._sketch is None:
            return
        better = {
            box.label: (box.score, time)
            for box in reversed(result.boxes)
            if box.score > self._surest.get(box.label, (-SURER, 0.0))[0] + SURER
        }
        if better or not self._frames:
            self._surest |= better
            self._frames[time] = {"time": time, "facts": result.to_dict(), **self._sketch(result)}
            chosen = {chosen for _, chosen in self._surest.values()} or {time}
            self._frames = {each: self._frames[each] for each in self._frames if each in chosen}

    @property
    def frames(self) -> list[dict[str, Any]]:
        """In the order of their times: time, the result's plain data, and its sketch."""
        return list(self._frames.values())


def in_words(watched: Watched, path: Path) -> str:
    """A few lines for a person: when each prompt is there."""
    lines = [f"{display_name(path)}: {watched.frames} frames, {watched.seconds:.1f} s"]
    for prompt, found in watched.spans.items():
        times = ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in found)
        lines.append(f"  {printable(prompt)}: {times or 'not here'}")
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return text.decode() + "\n"
