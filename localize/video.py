"""Videos: frames with their times in, frames with their times out.

Knows video files and pixels; must not know models. FFmpeg, through PyAV, reads and writes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from localize.names import display_name
from localize.options import MAX_PIXELS

SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .mts .m2ts .wmv .3gp .ogv".split())
"""Endings of file names, in lower case, that are taken as videos."""

TICK = Fraction(1, 1000)
"""Unit of time of written videos, in seconds."""


class VideoError(ValueError):
    """A video cannot be read, or not to its end. The message is one sentence that names it."""


@dataclass(frozen=True, eq=False)
class Frame:
    """time: seconds from the video's beginning. pixels: uint8 (H, W, 3), RGB, upright."""

    time: float
    pixels: npt.NDArray[np.uint8]


def frames(
    path: str | os.PathLike[str], every: float, *, max_pixels: int = MAX_PIXELS
) -> Iterator[Frame]:
    """Frames of a video, the first and then one each `every` seconds, decoded as asked for.

    Raises VideoError for what is no video, and, after the frames that could be read, for one that
    is damaged or cut short; ValueError for an impossible `every`; ImportError without the extra.
    """
    if not every > 0:
        raise ValueError(f"every must be a number of seconds above 0, not {every}")
    av = _av()
    name = display_name(path)
    last = 0.0
    with _readable(av, name, lambda: last), av.open(os.fsdecode(path)) as container:
        if not container.streams.video:
            raise VideoError(f"{name} has no pictures in it, only sound or text")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if stream.width * stream.height > max_pixels:
            raise VideoError(
                f"{name}: its {stream.width} x {stream.height} pixels are more than the limit of "
                f"{max_pixels:,}; raise max_pixels to read it"
            )
        start, wanted, end = None, 0.0, 0.0
        for frame in container.decode(stream):
            start = frame.time or 0.0 if start is None else start
            last = (frame.time or 0.0) - start
            end = last + float((frame.duration or 0) * frame.time_base)
            # Half a tick earlier is on time: times are rounded.
            if last + float(TICK) / 2 >= wanted:
                wanted += every * max(1, 1 + int((last - wanted) / every))
                yield Frame(last, _upright(frame))
        if start is None:
            raise VideoError(f"{name} has no frame that can be read; it is damaged or cut short")
        length = None if container.duration is None else container.duration / 1_000_000
        if length is not None and length - end > max(1.0, 0.05 * length):
            raise VideoError(f"{name} is cut short: it ends at {last:.1f} of {length:.1f} seconds")


class VideoWriter:
    """Writes an MP4 that any browser plays: H.264 where FFmpeg has it, else MPEG-4.

    A frame is shown from its time to the next one's. Use it as a context; the file is not whole
    before its end.
    """

    def __init__(self, path: str | os.PathLike[str], every: float) -> None:
        """every: seconds that the last frame is shown. Raises ImportError without the extra."""
        self._av = _av()
        self._every = every
        self._container = self._av.open(os.fsdecode(path), "w", format="mp4")
        self._stream: Any = None
        self._last = 0

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, frame: Frame) -> None:
        """Add a frame; all have the size of the first one, to whole pairs of pixels."""
        height, width = (side // 2 * 2 for side in frame.pixels.shape[:2])
        if self._stream is None:
            codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
            rate = Fraction(1 / self._every).limit_denominator(1000)
            self._stream = self._container.add_stream(codec, rate=rate)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = TICK
        pixels = np.ascontiguousarray(frame.pixels[:height, :width])
        picture = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
        picture.pts, picture.time_base = round(frame.time / TICK), TICK
        self._container.mux(self._stream.encode(picture))

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


def spans(times: Sequence[float], here: Sequence[bool], every: float) -> list[tuple[float, float]]:
    """From when to when something is there, in seconds, of whether it is in each sampled frame.

    A frame speaks for the time up to the next one, the last one for `every` seconds.
    """
    found: list[tuple[float, float]] = []
    ends = [*times[1:], times[-1] + every] if times else []
    for start, end, is_here in zip(times, ends, here, strict=True):
        if is_here and found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        elif is_here:
            found.append((start, end))
    return found


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "videos need the extra 'video': pip install 'clip-localize[video]'"
        ) from error
    av.logging.set_level(av.logging.PANIC)  # What is damaged is said in a sentence of our own.
    return av


def _upright(frame: Any) -> npt.NDArray[np.uint8]:
    """The pixels as a player shows them: telephones film on their side and say so."""
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns))


@contextmanager
def _readable(av: Any, name: str, time: Any) -> Iterator[None]:
    """Turn what FFmpeg says of a damaged file into one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(f"cannot read {name}: there is no such file") from error
    except (av.FFmpegError, OSError) as error:
        place = f" after {time():.1f} seconds" if time() else ""
        raise VideoError(
            f"cannot read {name}{place}: it is no video, damaged or cut short"
        ) from error
