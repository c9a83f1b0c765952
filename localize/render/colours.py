"""Which colours pictures of results have, and how heat lies on a photo. Knows only colours."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]

PAPER: Colour = (255, 255, 255)
INK: Colour = (32, 33, 36)
PALE: Colour = (95, 99, 106)
HERE: Colour = (0, 128, 84)
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)

PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (180, 0, 60),
    (135, 255, 240),
    (255, 195, 180),
    (0, 105, 105),
    (150, 105, 255),
    (195, 0, 150),
    (165, 255, 150),
    (75, 30, 255),
    (225, 90, 90),
    (165, 180, 105),
    (180, 30, 0),
    (0, 105, 60),
    (0, 195, 195),
    (75, 210, 150),
    (180, 210, 255),
    (120, 135, 195),
    (15, 150, 30),
    (75, 150, 150),
    (255, 60, 135),
    (255, 165, 210),
    (165, 240, 255),
    (165, 90, 90),
    (45, 90, 255),
)
"""Colours for prompts, any two of which can be told apart: the seven of Okabe and Ito 2008, "Color
Universal Design", which the colour-blind tell apart too, and then those that are farthest from the
ones before (CIEDE2000, by ordinary sight and by the green- and the red-blind's), none so dark, pale
or grey that a thin line of it is lost on a photo."""

_HEAT_STOPS = np.array(
    [(120, 20, 40), (205, 50, 30), (250, 125, 30), (255, 190, 50), (255, 245, 150)], np.float32
)
"""Heat of 0, .25, .5, .75 and 1: from dark red over orange to pale yellow. It gets lighter all the
way, so that it reads in grey, and from blue to yellow, which the red- and green-blind see."""

_GROUND = np.array([(12, 17, 28), (92, 102, 120)], np.float32)
"""What black and white of the photo become: a bluish grey that is darker than heat from .5 on."""

_SHADOWS = 0.75
"""Exponent of the photo's brightness, which keeps dark pictures from turning black."""

_FAINT, _PLAIN = 0.04, 0.55
"""Relevance up to which there is no heat, and from which it is as dense as it gets."""

_DENSEST = 0.88
_RELIEF = 0.2
"""How much of the heat's brightness follows the photo, so that things keep their shapes in it."""

_FADED = 0.88
"""Brightness of the photo outside of boxes."""


def heat_over(photo: Pixels, relevance: npt.NDArray[np.float32]) -> Pixels:
    """The photo, grey and dim, under the heat of a relevance map.

    photo: uint8 (H, W, 3). relevance: float32 (H, W) in [0, 1]. Returns uint8 (H, W, 3).
    """
    levels = (255 * relevance).round().astype(np.uint8)
    return _heat_table()[levels, _light(photo)]


@cache
def _heat_table() -> Pixels:
    """RGB of each relevance over each brightness of the photo, uint8 (256, 256, 3)."""
    relevance, light = np.linspace(0, 1, 256)[:, None], np.linspace(0, 1, 256)[:, None]
    ground = _GROUND[0] + (_GROUND[1] - _GROUND[0]) * light**_SHADOWS
    heat = _heat(relevance[:, 0])[:, None] * (1 - _RELIEF + _RELIEF * light)
    opacity = _opacity(relevance)[..., None]
    return np.asarray((ground + (heat - ground) * opacity).round(), np.uint8)


def heat_alone(relevance: npt.NDArray[np.float32]) -> Pixels:
    """Heat to be laid over a photo, see-through where there is none.

    relevance: float32 (H, W) in [0, 1]. Returns RGBA, uint8 (H, W, 4).
    """
    opacity = 255 * _opacity(relevance)[..., None]
    return np.asarray(np.concatenate([_heat(relevance), opacity], axis=2).round(), np.uint8)


def _heat(relevance: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The colour of each relevance, (..., 3)."""
    places = np.linspace(0, 1, len(_HEAT_STOPS))
    return np.stack([np.interp(relevance, places, stops) for stops in _HEAT_STOPS.T], axis=-1)


def _opacity(relevance: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """How much each relevance covers of the photo, in [0, 1]."""
    step = np.clip((relevance - _FAINT) / (_PLAIN - _FAINT), 0, 1)
    return _DENSEST * step * step * (3 - 2 * step)


def faded(photo: Pixels) -> Pixels:
    """The photo somewhat darker and with half of its colour, uint8 (H, W, 3)."""
    grey = cv2.cvtColor(_light(photo), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(photo, _FADED / 2, grey, _FADED / 2, 0), np.uint8)


def colour_of(index: int) -> Colour:
    """The colour of the prompt of this number; after thirty they come again."""
    return PALETTE[index % len(PALETTE)]


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read better on a colour."""
    return BLACK if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else WHITE


def _light(photo: Pixels) -> Pixels:
    """How light each pixel is, uint8 (H, W): luma as in ITU-R BT.601."""
    return np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), np.uint8)
