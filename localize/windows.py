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
    def boxes(self) -> npt.NDArray[np.float32]:
        """The windows as xyxy, float32 (N, 4), in pixels of the picture, row by row."""
        to_picture = np.array(self.picture, float) / self.level
        corners = np.array([(x, y) for y in self.ys for x in self.xs], float)
        edges = np.concatenate([corners, corners + self.side], axis=1) * np.tile(to_picture, 2)
        return np.minimum(edges, np.tile(self.picture, 2)).astype(np.float32)


def make_grids(
    width: int, height: int, image_size: int, scales: Sequence[float], stride: float
) -> tuple[Grid, ...]:
    """The whole picture, squeezed into one window, and then one grid of windows a scale.

    width, height: of the picture, in pixels.
    image_size: side in pixels of the encoder's input.
    scales: sides of the windows. Up to 1: fractions of the picture's short side (of 1/16 of its
        long side, if that is more); above 1: pixels, no more than the short side.
    stride: the longest step between windows, as a fraction of their side. The windows of a row or
        column are spread evenly from border to border, so that every pixel is covered.
    """
    whole = Grid((width, height), (image_size, image_size), image_size, (0,), (0,))
    reference = max(min(width, height), max(width, height) / MAX_ASPECT)
    grids = [whole]
    for scale in scales:
        window = reference * scale if scale <= 1 else min(scale, reference)
        level_width = max(1, round(width * image_size / window))
        level_height = max(1, round(height * image_size / window))
        step = max(1, round(image_size * stride))
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


def _starts(length: int, side: int, step: int) -> tuple[int, ...]:
    """Left edges of as few windows as cover `length` at most `step` apart, spread evenly."""
    if length <= side:
        return (0,)
    count = 1 + math.ceil((length - side) / step)
    return tuple(round(index * (length - side) / (count - 1)) for index in range(count))
