"""Which square windows, at which scales and strides, cover a picture.

Pure geometry of numbers: knows no pixels, no torch, no model.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

MAX_ASPECT = 16
"""Beyond this aspect ratio windows are sized by the long side, so that a strip of one pixel by
thousands is not cut into thousands of crops."""

LEAST_WINDOW = 8
"""Side in pixels of the smallest window: less of a picture shows nothing that an encoder knows."""

MAX_WINDOWS = 100_000
"""More windows of one scale than this are a slip of the pen, and would take hours and memory."""


@dataclass(frozen=True)
class Grid:
    """All windows of one scale, on a grid.

    The picture is resized to ``level`` so that one window is exactly ``side`` x ``side`` pixels,
    the encoder's input. Where the picture is narrower than a window, the window reaches past it.

    picture: (width, height) of the picture in pixels.
    level: (width, height) of the resized picture.
    side: side of a window in pixels of the level.
    xs, ys: left and top edges of the columns and rows of windows, in pixels of the level.
    chosen: which of the windows there are, ascending, numbered row by row; None: all of them.
    """

    picture: tuple[int, int]
    level: tuple[int, int]
    side: int
    xs: tuple[int, ...]
    ys: tuple[int, ...]
    chosen: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.xs) * len(self.ys) if self.chosen is None else len(self.chosen)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """(left, top) of the windows in pixels of the level, row by row."""
        corners = [(x, y) for y in self.ys for x in self.xs]
        return corners if self.chosen is None else [corners[index] for index in self.chosen]

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
    for window, scale in sides.items():
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


def within_budget(
    grids: Sequence[Grid], content: npt.NDArray[np.float64], budget: int
) -> tuple[Grid, ...]:
    """Of the windows of all grids the `budget` that show most; the whole picture is always one.

    content: (h, w), how much there is to see at each place of the picture, > 0; its unit is free.

    A window covers each place as much as a Gaussian about its centre says, and its gain is the
    content that it covers more than the windows chosen before it in its own grid do. So coarse
    windows come first, and finer ones stand apart from each other, closer where there is more to
    see. Grids of which no window is chosen are left out.
    """
    if sum(map(len, grids)) <= budget:
        return tuple(grids)
    height, width = content.shape
    profiles = [
        (
            window_profiles(grid.ys, grid.side, grid.level[1], height),
            window_profiles(grid.xs, grid.side, grid.level[0], width),
        )
        for grid in grids
    ]
    covered = [np.zeros(content.shape)] * len(grids)
    chosen: list[list[int]] = [[0], *([] for _ in grids[1:])]
    # As gains only fall, one that is up to date and above the others' old ones is the largest
    # (Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978).
    queue = [
        (-gain, index, window)
        for index, (down, across) in enumerate(profiles)
        if index > 0
        for window, gain in enumerate((down @ content @ across.T).ravel().tolist())
    ]
    heapq.heapify(queue)
    while sum(map(len, chosen)) < budget:
        _, index, window = heapq.heappop(queue)
        down, across = profiles[index]
        row, column = divmod(window, len(across))
        profile = np.outer(down[row], across[column])
        gain = float((np.maximum(profile - covered[index], 0) * content).sum())
        if queue and gain < -queue[0][0]:
            heapq.heappush(queue, (-gain, index, window))
            continue
        chosen[index].append(window)
        covered[index] = np.maximum(covered[index], profile)
    return tuple(
        grid if len(windows) == len(grid) else replace(grid, chosen=tuple(sorted(windows)))
        for grid, windows in zip(grids, chosen, strict=True)
        if windows
    )


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
