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


def watch(
    path: Path,
    outputs: Sequence[Path],
    locate: Locate,
    *,
    every: float,
    max_pixels: int,
    facts: Mapping[str, Any],
    progress: Callable[[], object] = lambda: None,
) -> Watched:
    """Locate the frames of a video, one each `every` seconds, and write what was found of them.

    outputs: the files to be written: an annotated video, a line a frame, and at last JSON with the
        spans; where there is this, all is there. locate: gives the results of pictures in their
        order, as `Localizer.locate_many` does. facts: what else the JSON is to say.
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
    with files.together(outputs) as (annotated, lines, whole):
        with VideoWriter(annotated, every) as writer, open(lines, "w", encoding="utf-8") as log:
            for number, result in enumerate(locate(pictures())):
                overlay = np.asarray(result.boxes_overlay(legend=False))
                writer.write(Frame(times[number], overlay))
                found = result.to_dict()
                row = {key: found[key] for key in ("prompts", "presence", "boxes")}
                log.write(_line({"time": round(times[number], 3), **row}))
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
        Path(whole).write_bytes(files.json_bytes({**facts, **asdict(watched)}))
    return watched


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
