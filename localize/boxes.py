"""From a relevance map to boxes: thresholds, connected components, box scores, suppression.

Knows maps and OpenCV; must not know models.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Boxes = npt.NDArray[np.int64]

LEVELS = tuple(level / 20 for level in range(2, 20))
"""Candidates are cut out of a map at these fractions of its maximum."""

SIMPLE_LEVEL = 0.5
"""The one fraction at which `threshold_boxes` cuts."""

RING = 0.25
"""Width of the ring around a box, as a fraction of the box's width and height."""

STRENGTH = 0.45
"""Power of the relevance inside a box in its score: with 0 a faint thing that stands alone would be
as sure as a strong one, with 1 the bright part of a bright surrounding would come before it."""

OVERLAP = 0.4
"""Of two boxes whose IoU is above this only the better is kept."""

NESTED = 0.75
"""A box that shares more than this part of the smaller area with a better one is nested with it."""

DOUBT = 0.5
"""Factor to the score of a nested box: it is more likely a part, or the surroundings, of the same
thing than another one."""

NESTED_THRESHOLD = 2
"""How many times the threshold a nested box must reach: one thing shall not become several boxes,
while a ranked list without a threshold keeps them all."""

MAX_BOXES = 100
"""The most boxes of one map: what COCO's evaluation reads."""

LEAST_AREA = 4
"""Components of fewer pixels of the map are noise."""


def find_boxes(relevance: Array, threshold: float = 0.0, plain: Array | None = None) -> Array:
    """The boxes that stand out from their surroundings, best first.

    Candidates are the boxes of connected components at many thresholds, so that a weak thing beside
    a strong one is not lost and neither extent nor number hangs on one threshold; `contrast` scores
    them, and of those that overlap the best stays (non-maximum suppression). What is nested with a
    better box stays at half its score, if that reaches twice the threshold.

    relevance: float32 (h, w) in [0, 1]. threshold: the least score of a box. plain: float32 (h, w)
    in [0, 1], the same map before it was made distinct, if it was. That sets small things apart
    and leaves of large ones the most telling part, so a box scores by the better of the two.
    Returns float32 (N, 5), N at most `MAX_BOXES`: xyxy in pixels of the map and a score in (0, 1].
    """
    maps = [relevance] if plain is None else [relevance, plain]
    if max(map(np.max, maps)) ** STRENGTH < threshold:  # no box can score more
        return np.empty((0, 5), np.float32)
    candidates = _components(relevance, LEVELS)
    scores = np.maximum.reduce([contrast(each, candidates) for each in maps])
    xywh = np.concatenate([candidates[:, :2], candidates[:, 2:] - candidates[:, :2]], axis=1)
    best = cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), threshold, OVERLAP)
    kept = np.asarray(best, int)[:MAX_BOXES]
    nested = _nested(candidates[kept])
    doubted = scores[kept] * np.where(nested, DOUBT, 1)
    order = np.argsort(-doubted, kind="stable")
    sure = doubted >= threshold * np.where(nested, NESTED_THRESHOLD, 1)
    return _joined(candidates[kept], doubted, order[sure[order]])


def threshold_boxes(relevance: Array, threshold: float = 0.0) -> Array:
    """The boxes of the connected components at half the map's maximum, best first.

    The plain way, for comparison or for maps of one clear thing; takes and returns what
    `find_boxes` does, with `contrast` as the score.
    """
    candidates = _components(relevance, (SIMPLE_LEVEL,))
    scores = contrast(relevance, candidates)
    kept = np.argsort(-scores, kind="stable")[:MAX_BOXES]
    return _joined(candidates, scores, kept[(scores[kept] > 0) & (scores[kept] >= threshold)])


def contrast(relevance: Array, boxes: Boxes) -> Array:
    """How relevant the inside of each box is, and how much less the ring around it.

    relevance: float32 (h, w) in [0, 1]. boxes: integers (N, 4), xyxy in pixels of the map.
    Returns float32 (N,) in [0, 1]: inside^STRENGTH * (1 - ring / inside), where inside and ring
    are means, and less than nothing counts as 0. Beyond the border the ring is taken to be half as
    relevant as the inside: what is cut off there is unknown.
    """
    height, width = relevance.shape
    integral = cv2.integral(relevance, sdepth=cv2.CV_64F)
    sizes = boxes[:, 2:] - boxes[:, :2]
    margins = np.maximum(1, np.rint(sizes * RING).astype(np.int64))
    low = np.maximum(boxes[:, :2] - margins, 0)
    high = np.minimum(boxes[:, 2:] + margins, (width, height))
    outer = np.concatenate([low, high], axis=1)
    area = sizes.prod(1)
    ring_area = (sizes + 2 * margins).prod(1) - area
    beyond = area + ring_area - (high - low).prod(1)
    total = _sums(integral, boxes)
    inside = total / area
    ring = (_sums(integral, outer) - total + beyond * inside / 2) / ring_area
    scores = (inside - ring) / np.maximum(inside, np.finfo(np.float32).tiny) ** (1 - STRENGTH)
    return np.clip(scores, 0, 1).astype(np.float32)


def _nested(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Which of the boxes (N, 4), best first, are nested with a better one: bool (N,)."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    nested = np.tril(shared > NESTED * np.minimum(area[:, None], area), -1)
    return np.asarray(nested.any(axis=1), np.bool_)


def _components(relevance: Array, levels: tuple[float, ...]) -> Boxes:
    """The different boxes (N, 4) of the connected components at fractions of the maximum."""
    peak = float(relevance.max())
    found = [np.empty((0, 4), np.int64)]
    for level in levels if peak > 0 else ():
        mask = (relevance >= level * peak).astype(np.uint8)
        stats = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:]
        left, top, width, height = stats[stats[:, cv2.CC_STAT_AREA] >= LEAST_AREA, :4].T
        found.append(np.stack([left, top, left + width, top + height], axis=1).astype(np.int64))
    return np.unique(np.concatenate(found), axis=0)


def _sums(integral: npt.NDArray[np.float64], boxes: Boxes) -> npt.NDArray[np.float64]:
    """Sum of the map in each box, from the integral image of Viola and Jones (2001)."""
    left, top, right, bottom = boxes.T
    inside: npt.NDArray[np.float64] = (
        integral[bottom, right]
        - integral[top, right]
        - integral[bottom, left]
        + integral[top, left]
    )
    return inside


def _joined(boxes: Boxes, scores: Array, order: npt.NDArray[np.int64]) -> Array:
    return np.concatenate([boxes[order], scores[order, None]], axis=1).astype(np.float32)
