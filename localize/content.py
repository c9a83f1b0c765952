"""How much there is to see at each place of a picture.

Knows pixels; must not know windows, models or prompts.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

FINE_SIDE, COARSE_SIDE = 160, 48
"""Pixels along the long side, of the picture that edges are looked for in and of the answer."""


def content(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """How much changes at each place: the mean of the root of the colour gradient, > 0.

    pixels: uint8 (H, W, 3), RGB. Returns float64 (h, w) of at most COARSE_SIDE, in units of its
    mean over the picture.
    Colours are CIE L*a*b*, whose distances are about those that people see. The root,
    because one strong edge is less worth looking at than many weak ones.
    """
    small = cv2.resize(pixels, _fit(pixels, FINE_SIDE), interpolation=cv2.INTER_AREA)
    colours = cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    steps = [cv2.Sobel(colours, cv2.CV_64F, *axis) for axis in ((1, 0), (0, 1))]
    change = np.sqrt(np.sqrt(sum((step**2).sum(2) for step in steps)))
    answer = cv2.resize(change, _fit(pixels, COARSE_SIDE), interpolation=cv2.INTER_AREA)
    # A picture of one colour has the same nothing everywhere.
    return (answer + 1e-6) / (answer.mean() + 1e-6)


def _fit(pixels: npt.NDArray[np.uint8], side: int) -> tuple[int, int]:
    """(width, height) of the picture shrunk to a long side of at most `side` pixels."""
    height, width = pixels.shape[:2]
    shrink = min(1.0, side / max(height, width))
    return max(1, round(width * shrink)), max(1, round(height * shrink))
