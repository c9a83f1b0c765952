"""Which square windows, at which scales and strides, cover a picture.

Pure geometry of numbers: knows no pixels, no torch, no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_ASPECT = 16
"""Beyond this aspect ratio windows are sized by the long side, so that a strip of one pixel by
thousands is not cut into thousands of crops."""

LEAST_WINDOW = 8
"""Side in pixels of the smallest window: less of a picture shows nothing that an encoder knows."""

MAX_WINDOWS = 100_000
"""More windows of one scale than this are a slip of the pen, and would take hours and memory."""


DIAL = (
    ((1.0,), 1.0),
    ((1.0, 0.63), 0.75),
    ((1.0, 0.63, 0.4), 0.75),
    ((1.0, 0.63, 0.4, 0.25), 0.75),
)
"""Scales and strides from few windows to many: of the even grids that were measured those whose
boxes no smaller one beats; docs/evaluation.md has the curve. In a picture of 4:3 they make 3, 9, 24
and 59 windows."""


@dataclass(frozen=True)
class Grid:
    """All windows of one scale, on a grid.

    The picture is resized to ``level`` so that one window is exactly ``side`` x ``side`` pixels,
    the encoder's input. Where the picture is narrower than a window, the window reaches past it.

    picture: (width, height) of the picture in pixels.
    level: (width, height) of the resized picture.
    side: side of a window in pixels of the level.
    xs, ys: left and top edges of the columns and rows of windows, in pixels of the level.
    """

    picture: tuple[int, int]
    level: tuple[int, int]
    side: int
    xs: tuple[int, ...]
    ys: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.xs) * len(self.ys)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(left, top) of the windows in pixels of the level, row by row."""
        return [(x, y) for y in self.ys for x in self.xs]

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """The windows as xyxy, float32 (N, 4), in pixels of the picture, row by row."""
        to_picture = np.array(self.picture, float) / self.level
        corners = np.array(self.corners, float).reshape(-1, 2)
        edges = np.concatenate([corners, corners + self.side], axis=1) * np.tile(to_picture, 2)
        return np.minimum(edges, np.tile(self.picture, 2)).astype(np.float32)


def make_grids(
    width: int, height: int, image_size: int, scales: Sequence[float], stride: float
) -> tuple[Grid, ...]:
    """The whole picture, squeezed into one window, and then one grid of windows a scale.

    width, height: of the picture, in pixels.
    image_size: side in pixels of the encoder's input.
    scales: sides of the windows. Up to 1: fractions of the picture's short side (of 1/16 of its
        long side, if that is more); above 1: pixels, no more than the short side. None is smaller
        than `LEAST_WINDOW`; of scales that come to the same side there is one grid.
    stride: the longest step between windows, as a fraction of their side. The windows of a row or
        column are spread evenly from border to border, so that every pixel is covered.
    Raises ValueError when that would be more than `MAX_WINDOWS` of one scale.
    """
    whole = Grid((width, height), (image_size, image_size), image_size, (0,), (0,))
    reference = max(min(width, height), max(width, height) / MAX_ASPECT)
    grids = [whole]
    sides: dict[float, float] = {}
    for scale in scales:
        side = reference * scale if scale <= 1 else min(scale, reference)
        sides.setdefault(max(LEAST_WINDOW, side), scale)
    # Coarse to fine, whatever the order they are named in.
    for window, scale in sorted(sides.items(), reverse=True):
        step = max(1, round(image_size * stride))
        if width / window * height / window * (image_size / step) ** 2 > MAX_WINDOWS:
            raise ValueError(
                f"scales and stride ask for more than {MAX_WINDOWS:,} windows of scale {scale:g} "
                f"in a picture of {width} x {height}; a larger scale or stride would be right"
            )
        level_width = max(1, round(width * image_size / window))
        level_height = max(1, round(height * image_size / window))
        grids.append(
            Grid(
                (width, height),
                (level_width, level_height),
                image_size,
                _starts(level_width, image_size, step),
                _starts(level_height, image_size, step),
            )
        )
    return tuple(grids)


def within_budget(width: int, height: int, image_size: int, budget: int) -> tuple[Grid, ...]:
    """The best even grids, of those measured, that have at most `budget` windows in all.

    width, height, image_size: as `make_grids` takes them. A budget below the fewest windows of
    `DIAL` gives the whole picture alone.
    """
    for scales, stride in reversed(DIAL):
        grids = make_grids(width, height, image_size, scales, stride)
        if sum(map(len, grids)) <= budget:
            return grids
    return make_grids(width, height, image_size, (), 1.0)


def window_profiles(
    starts: Sequence[int], side: int, level: int, length: int
) -> npt.NDArray[np.float64]:
    """How much each window along one axis says about each place of it: (windows, length) in [0, 1].

    A Gaussian about the window's centre, of a standard deviation of a quarter of its side, and 0
    outside it.

    starts, side, level: the windows' first pixels, their side and the axis' length, in pixels of
    the level. length: how many places the axis is divided into.
    """
    places = (np.arange(length) + 0.5) * (level / length)
    inside = (places - np.array(starts)[:, None]) / side
    gaussian = np.exp(-0.5 * ((inside - 0.5) / 0.25) ** 2)
    return np.where((inside >= 0) & (inside < 1), gaussian, 0.0)


def _starts(length: int, side: int, step: int) -> tuple[int, ...]:
    """Left edges of as few windows as cover `length` at most `step` apart, spread evenly."""
    if length <= side:
        return (0,)
    count = 1 + math.ceil((length - side) / step)
    return tuple(round(index * (length - side) / (count - 1)) for index in range(count))
