"""Pictures with known boxes, and what a method answered about them: the plain data of evaluation.

Knows no file format, no model and no metric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is in one picture, and what is asked of it.

    file: what reports call the picture.
    labels: the T names of the true boxes.
    xyxy: float64 (T, 4), corners in pixels of the upright picture.
    iscrowd: bool (T,). A crowd box marks a group drawn as one: it tells that the name is in the
        picture, but it is not a thing that a method must box.
    prompts: the P names asked of the picture, each once; some of them may be absent from it.
    unknown: those of the prompts that mean nothing to the model; they are absent too.
    """

    file: str
    labels: tuple[str, ...]
    xyxy: Array
    iscrowd: npt.NDArray[np.bool_]
    prompts: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    def present(self) -> npt.NDArray[np.bool_]:
        """Which prompts are in the picture: bool (P,)."""
        there = set(self.labels)
        return np.array([prompt in there for prompt in self.prompts], bool)

    def boxes_of(self, label: str, crowds: bool = True) -> Array:
        """The true boxes (N, 4) of one name, without those of crowds unless ``crowds``."""
        chosen = np.array([name == label for name in self.labels], bool)
        return self.xyxy[chosen if crowds else chosen & ~self.iscrowd]

    def crowds_of(self, label: str) -> Array:
        """The crowd boxes (N, 4) of one name."""
        return self.xyxy[np.array([name == label for name in self.labels], bool) & self.iscrowd]


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture to ask, as a path or as uint8 RGB (H, W, 3), and what is in it.

    masks: gives int16 (H, W), which of the truth's boxes each pixel of the upright picture belongs
        to, -1 for none; None where only boxes are known. It is as large as the picture, so it is
        made when it is asked for.
    """

    image: Path | npt.NDArray[np.uint8]
    truth: Truth
    masks: Callable[[], npt.NDArray[np.int16]] | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What a method said about one picture, cut down to what the metrics read.

    labels, scores, xyxy: the N boxes, best first: names, float64 (N,), float64 (N, 4).
    presence: float64 (P,), one for each prompt of the truth, in their order.
    peaks: float64 (P, 2), where (x, y) each prompt's relevance map is highest, in pixels.
    crops: how many crops went through the image encoder.
    encode_seconds, locate_seconds: wall time of the two halves.
    pixels: where the picture has masks, `metrics.count_pixels` of the maps against them: int64
        (2, P + 1, 3).
    """

    labels: tuple[str, ...]
    scores: Array
    xyxy: Array
    presence: Array
    peaks: Array
    crops: int
    encode_seconds: float
    locate_seconds: float
    pixels: npt.NDArray[np.int64] | None = None
