"""From a relevance map to boxes: connected components, scores, suppression, chances.

Knows maps and OpenCV; must not know models.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Boxes = npt.NDArray[np.int64]

LEVELS = tuple(level / 20 for level in range(2, 20))
"""Candidates are cut out of a map at these fractions of its maximum."""

RING = 0.25
"""Width of the ring around a box, as a fraction of the box's width and height."""

STRENGTH = 0.45
"""Power of the relevance inside a box in its score: with 0 a faint thing that stands alone would be
as sure as a strong one, with 1 the bright part of a bright surrounding would come before it."""

TIP = 0.75
"""What was cut out at more than this fraction of its own maximum is the tip of something."""

TIP_DOUBT = 0.85
"""Factor to the score of a tip, which is seldom all of a thing."""

OVERLAP = 0.4
"""Of two boxes whose IoU is above this only the better is kept."""

NESTED = 0.75
"""A box that shares more than this part of the smaller area with a better one is nested with it."""

DOUBT = 0.5
"""Factor to the score of a nested box: it is more likely a part, or the surroundings, of the same
thing than another one."""

LEAN, LEAST_VOTE = 0.3, 0.3
"""How far the best box leans from its own corners towards the mean of candidates about it, and the
IoU from which they are about it; see `_leaning`."""

BESIDE = 0.8
"""Power of a box's contrast as a part of its map's best, when it is to be reported: beside a sure
thing a weak box is more likely a part or an echo of it than another one. With 0 many a thing gets
several boxes, with more fewer of the things that a picture has several of get theirs."""

HALF, STEEPNESS = 0.21, 3.8
"""The contrast of a box that is right every second time, and how fast chances grow about it; see
`chances`, and docs/calibration.md for how they were found."""

MAX_BOXES = 100
"""The most boxes of one map: what COCO's evaluation reads."""

LEAST_AREA, LEAST_SIDE = 4, 3
"""Components of fewer pixels of the map are noise, and narrower ones slivers along an edge."""


def find_boxes(
    relevance: Array, plain: Array | None = None, presence: float = 1.0, threshold: float = 0.0
) -> Array:
    """The boxes that stand out from their surroundings, best first.

    Candidates are the boxes of connected components at many thresholds, so that a weak thing beside
    a strong one is not lost and neither extent nor number hangs on one threshold; `contrast` scores
    them, less for the tip of something, and of those that overlap the best stays (non-maximum
    suppression). What is nested with a better box stays at half its score, unless that one is
    nested itself.

    relevance: float32 (h, w) in [0, 1]. plain: float32 (h, w) in [0, 1], the same map before it was
    made distinct, if it was. That sets small things apart and leaves of large ones the most telling
    part, so a box scores by the better of the two. presence: how sure it is that the thing is in
    the picture at all, in [0, 1]; no box is surer. threshold: the least chance of a box that is
    reported; one that has a fraction f of the best one's contrast must reach it with f ** BESIDE
    times its own. 0: all of them, doubtful ones too, as a ranked list.
    Returns float32 (N, 5), N at most `MAX_BOXES`: xyxy in pixels of the map and a score in (0, 1],
    the chance that the box is right; see `chances`.
    """
    least = contrast_of(threshold)
    maps = [relevance] if plain is None else [relevance, plain]
    if min(presence, max(map(np.max, maps)) ** STRENGTH) < least:  # no box can score more
        return np.empty((0, 5), np.float32)
    candidates, tips = _components(relevance)
    scores = np.maximum.reduce([contrast(each, candidates) for each in maps])
    scores *= np.where(tips, np.float32(TIP_DOUBT), 1)
    xywh = np.concatenate([candidates[:, :2], candidates[:, 2:] - candidates[:, :2]], axis=1)
    # Nothing that scores less than `least` is reported, or keeps anything else from it.
    best = cv2.dnn.NMSBoxes(xywh.tolist(), scores.tolist(), least, OVERLAP)
    kept = np.asarray(best, int)[:MAX_BOXES]
    corners = _leaning(candidates, scores, kept)
    candidates = candidates[kept]
    scores = scores[kept] * np.where(_nested(candidates), DOUBT, 1)
    order = np.argsort(-scores, kind="stable")
    standing = scores * (scores / scores.max(initial=0)) ** BESIDE
    order = order[standing[order] >= least]
    sure = chances(np.minimum(scores[order], presence))
    return np.concatenate([corners[order], sure[:, None]], axis=1).astype(np.float32)


def enlarged(boxes: Array, of: tuple[int, ...], to: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Boxes and scores (N, 5) in pixels of a map as they are in pixels of its picture.

    of, to: (width, height) of the map and of the picture.
    """
    factors = np.array([to[0] / of[0], to[1] / of[1]] * 2 + [1])
    return np.asarray(boxes * factors, np.float64)


def chances(contrasts: Array) -> Array:
    """The chance that a box of each contrast, in [0, 1], is right.

    Right is a box that has an IoU of .3 or more with a thing of its name. One logistic curve of the
    contrast's logarithm, 1 / (1 + (HALF / contrast) ** STEEPNESS), serves all encoders.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(1 / (1 + (HALF / contrasts) ** STEEPNESS), np.float32)


def contrast_of(chance: float) -> float:
    """The contrast of a box whose chance is in [0, 1): the inverse of `chances`; infinite for 1."""
    if chance <= 0 or chance >= 1:
        return 0.0 if chance <= 0 else float("inf")
    return float(HALF / (1 / chance - 1) ** (1 / STEEPNESS))


def box_iou(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (N, 4) and (M, 4), corners xyxy: (N, M) in [0, 1]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=-1)[:, None] + np.prod(b[:, 2:] - b[:, :2], axis=-1)
    return np.asarray(common / np.maximum(union - common, np.finfo(np.float64).tiny))


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


def _leaning(candidates: Boxes, scores: Array, kept: npt.NDArray[np.int_]) -> Array:
    """The corners of the kept ones of the candidates (N, 4), the best first: float32 (K, 4).

    Where a thing ends hangs on the level that it was cut out at, so the best one leans towards the
    mean, weighted by scores to the fourth, of the candidates that overlap it (IoU .3 and more) more
    than they do any other kept one: box voting (Gidaris and Komodakis, arXiv 1505.01749), of which
    a part was best. The others stay: what overlaps them is mostly of several things.
    """
    corners = candidates[kept].astype(np.float32)
    if len(kept):
        overlaps = box_iou(corners, candidates)
        voting = (overlaps[0] >= LEAST_VOTE) & (overlaps[0] >= overlaps.max(0))
        votes = np.where(voting, scores, 0) ** 4
        corners[0] += LEAN * (votes @ candidates / votes.sum() - corners[0])
    return corners


def _nested(boxes: Boxes) -> npt.NDArray[np.bool_]:
    """Which of the boxes (N, 4), best first, are nested with a better one that is not: bool (N,).

    Of three things in a row the box around all of them is nested with the first one's; it says
    nothing against the third's.
    """
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    inside = shared > NESTED * np.minimum(area[:, None], area)
    nested = np.zeros(len(boxes), np.bool_)
    for row in range(1, len(boxes)):
        nested[row] = (inside[row, :row] & ~nested[:row]).any()
    return nested


def _components(relevance: Array) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """The different boxes (N, 4) of the connected components at LEVELS, and which are tips (N,).

    A box is a tip if no component that fills it reaches 1 / TIP of the level it was cut out at.
    """
    peak = float(relevance.max())
    least_side = min(LEAST_SIDE, *relevance.shape)
    found, tips = [np.empty((0, 4), np.int64)], [np.empty(0, np.bool_)]
    for level in LEVELS if peak > 0 else ():
        mask = (relevance >= level * peak).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        higher = labels[relevance >= level * peak / TIP]
        tip = np.bincount(higher, minlength=len(stats)) == 0
        left, top, width, height, area = stats.T
        kept = (area >= LEAST_AREA) & (np.minimum(width, height) >= least_side)
        kept[0] = False  # the background
        boxes = np.stack([left, top, left + width, top + height], axis=1).astype(np.int64)
        found.append(boxes[kept])
        tips.append(tip[kept])
    boxes, which = np.unique(np.concatenate(found), axis=0, return_inverse=True)
    always = np.ones(len(boxes), np.bool_)
    np.logical_and.at(always, which.ravel(), np.concatenate(tips))
    return boxes, always


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
