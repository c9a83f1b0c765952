"""From a relevance map to boxes: threshold, connected components, box scores.

Knows maps and OpenCV; must not know models.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

LEVEL = 0.5
"""Components are cut out of a map at this fraction of its maximum."""


def find_boxes(relevance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Boxes around the connected components of a map at half its maximum, best first.

    relevance: float32 (h, w) in [0, 1].
    Returns float32 (N, 5): xyxy in pixels of the map, and as a score in [0, 1] the mean relevance
    inside the component.
    """
    peak = float(relevance.max())
    if peak <= 0:
        return np.empty((0, 5), np.float32)
    mask = (relevance >= LEVEL * peak).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    left, top, width, height = stats[1:, :4].T
    sums = np.bincount(labels.ravel(), relevance.ravel(), minlength=count)[1:]
    scores = sums / stats[1:, cv2.CC_STAT_AREA]
    boxes = np.stack([left, top, left + width, top + height, scores], axis=1).astype(np.float32)
    return boxes[np.argsort(-scores, kind="stable")]
