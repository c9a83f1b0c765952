"""Where things may end, whatever they are: boxes of grouped superpixels, and what boxes cut apart.

Knows pixels and their segmentations; must not know models, prompts or maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import cv2
import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.int64]
Segments = npt.NDArray[np.intp]

BINS = 16
"""Steps of each of the three colour histograms of a group."""


LEAST_SIDE = 3
"""Groups whose box has a shorter side, in pixels of the maps, are streaks and noise."""


@dataclass(frozen=True, eq=False)
class Outlines:
    """What a picture's own edges say of boxes, in pixels of its maps; depends on no prompt.

    boxes: integers (N, 4), xyxy: what things may be; see `grouped_boxes`.
    counts: uint16 (h + 1, w + 1, S): how many pixels of each superpixel lie above and left.
    """

    boxes: Boxes
    counts: npt.NDArray[np.uint16]

    def wholeness(self, boxes: Boxes) -> npt.NDArray[np.float32]:
        """How little each box cuts superpixels apart, float32 (N,) in [0, 1].

        1 less the share of the box that belongs to superpixels which cross its border, each counted
        by its smaller part, inside or outside: the cue "superpixels straddling" of Alexe et al.,
        "Measuring the Objectness of Image Windows" (TPAMI 2012), equation 4.

        boxes: integers (N, 4), xyxy in pixels, none of them empty.
        """
        left, top, right, bottom = boxes.T
        counts = self.counts
        # Unsigned numbers may wrap on the way; the sum of the four is right again.
        inside = counts[bottom, right] - counts[top, right]
        inside += counts[top, left] - counts[bottom, left]
        cut = np.minimum(inside, counts[-1, -1] - inside).sum(1, dtype=np.int64)
        area = (right - left) * (bottom - top)
        return np.clip(1 - cut / area, 0, 1).astype(np.float32)


def make_outlines(pixels: npt.NDArray[np.uint8], segments: Segments, coarse: Segments) -> Outlines:
    """The outlines of a picture, uint8 (H, W, 3), from two segmentations of its maps' size (h, w).

    segments: the superpixels that are grouped. coarse: those that boxes had better not cut apart.
    """
    height, width = segments.shape
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    boxes = grouped_boxes(small.astype(np.uint8, copy=False), segments)
    broad = (boxes[:, 2:] - boxes[:, :2]).min(1) >= LEAST_SIDE
    return Outlines(boxes[broad], _counts(coarse))


def grouped_boxes(pixels: npt.NDArray[np.uint8], segments: Segments) -> Boxes:
    """The boxes of all groups that arise when superpixels join, the most alike neighbours first.

    pixels: uint8 (h, w, 3), RGB. segments: (h, w), numbered from 0 without gaps.
    Returns the different boxes, integers (N, 4), xyxy in pixels, N < 2 * segments.

    This is the grouping of Selective Search (Uijlings et al., IJCV 2013, section 3.2) with three of
    its four measures: groups are alike that have the same colours, that are both small, and that
    fill the box around both.
    """
    groups = _Groups(pixels, segments)
    waiting = [(-groups.alike(one, two), one, two) for one, two in _neighbours(segments)]
    beside: dict[int, set[int]] = {number: set() for number in range(len(groups.sizes))}
    for _, one, two in waiting:
        beside[one].add(two)
        beside[two].add(one)
    heapify(waiting)
    while waiting:
        _, one, two = heappop(waiting)
        if one not in beside or two not in beside:
            continue  # one of them has joined another group since
        both = groups.join(one, two)
        around = (beside.pop(one) | beside.pop(two)) - {one, two}
        beside[both] = around
        for other in around:
            beside[other] -= {one, two}
            beside[other].add(both)
            heappush(waiting, (-groups.alike(other, both), other, both))
    return np.unique(np.array(groups.boxes, np.int64), axis=0)


def _counts(segments: Segments) -> npt.NDArray[np.uint16]:
    """The `Outlines.counts` of a segmentation (h, w) of at most 65,535 pixels."""
    height, width = segments.shape
    counts = np.zeros((height + 1, width + 1, int(segments.max()) + 1), np.uint16)
    rows, columns = np.indices(segments.shape)
    counts[rows + 1, columns + 1, segments] = 1
    np.cumsum(counts, axis=0, out=counts)
    return np.cumsum(counts, axis=1, out=counts)


class _Groups:
    """Superpixels and the groups they join to, numbered one after the other."""

    def __init__(self, pixels: npt.NDArray[np.uint8], segments: Segments) -> None:
        flat = segments.ravel()
        sizes = np.bincount(flat)
        colours = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).reshape(-1, 3) // (256 // BINS)
        counts = [
            np.bincount(flat * BINS + colour, minlength=len(sizes) * BINS).reshape(-1, BINS)
            for colour in colours.T
        ]
        self.colours = list(np.concatenate(counts, axis=1) / (3 * sizes[:, None]))
        self.sizes = sizes.tolist()
        self.boxes = _boxes_of(segments, sizes)
        self.area = len(flat)

    def alike(self, one: int, two: int) -> float:
        """How alike two groups are, in [0, 3]: shared colours, smallness and fill of their box."""
        left, top, right, bottom = self._box(one, two)
        size = self.sizes[one] + self.sizes[two]
        colours = float(np.minimum(self.colours[one], self.colours[two]).sum())
        hollow = (right - left) * (bottom - top) - size
        return colours + (1 - size / self.area) + (1 - hollow / self.area)

    def join(self, one: int, two: int) -> int:
        """Add the group of both; returns its number."""
        first, second = self.sizes[one], self.sizes[two]
        mixed = first * self.colours[one] + second * self.colours[two]
        self.colours.append(mixed / (first + second))
        self.boxes.append(self._box(one, two))
        self.sizes.append(first + second)
        return len(self.sizes) - 1

    def _box(self, one: int, two: int) -> tuple[int, int, int, int]:
        a, b = self.boxes[one], self.boxes[two]
        return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _boxes_of(segments: Segments, sizes: npt.NDArray[np.intp]) -> list[tuple[int, int, int, int]]:
    """The box around each segment, xyxy."""
    order = np.argsort(segments.ravel(), kind="stable")
    starts = np.cumsum(sizes) - sizes
    ys, xs = (axis.ravel()[order] for axis in np.indices(segments.shape))
    low = [np.minimum.reduceat(axis, starts) for axis in (xs, ys)]
    high = [np.maximum.reduceat(axis, starts) + 1 for axis in (xs, ys)]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in np.stack([*low, *high], axis=1).tolist()]


def _neighbours(segments: Segments) -> list[tuple[int, int]]:
    """The pairs of segments, smaller number first, that touch along an edge."""
    beside = np.stack([segments[:, 1:].ravel(), segments[:, :-1].ravel()])
    below = np.stack([segments[1:].ravel(), segments[:-1].ravel()])
    pairs = np.sort(np.concatenate([beside, below], axis=1), axis=0)
    pairs = pairs[:, pairs[0] < pairs[1]]
    count = int(segments.max()) + 1
    return [divmod(code, count) for code in np.unique(pairs[0] * count + pairs[1]).tolist()]
