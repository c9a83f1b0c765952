"""What the toolkit answers, as plain data that exporters and renderers read.

Knows pictures, maps and boxes; must not know how they were made.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from localize import files, render

JSON_VERSION = 2
"""Since 2 a box's score is the chance that it is right; in 1 it was a contrast, mostly lower."""


@dataclass(frozen=True)
class Box:
    """One found thing.

    label: the prompt that found it. score: the chance, in [0, 1], that it is right, which is to
    say that it has an IoU of .3 or more with a thing of that name.
    xyxy: left, top, right, bottom in pixels of the upright picture; right and bottom exclusive.
    """

    label: str
    score: float
    xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, repr=False)
class Localization:
    """Where each prompt is in one picture.

    pixels: the upright picture, uint8 (H, W, 3).
    file: the name of its file, if it came from one.
    notes: what the user should know of how it was read, such as "first of 12 frames".
    model: the name of the encoder.
    prompts: the P labels asked for.
    presence: float32 (P,) in [0, 1], how sure it is that each prompt is in the picture at all.
    maps: float32 (P, h, w) in [0, 1], relevance at the resolution that windows can resolve; the
        peak of each is the presence of its prompt.
    boxes: of all prompts, best first.
    source: what the picture was read from, as it was given: a path, bytes, an image or an array.
    """

    pixels: npt.NDArray[np.uint8]
    file: str | None
    model: str
    prompts: tuple[str, ...]
    presence: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32]
    boxes: list[Box]
    notes: tuple[str, ...] = ()
    source: Any = None

    @property
    def width(self) -> int:
        """Width of the upright picture in pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Height of the upright picture in pixels."""
        return int(self.pixels.shape[0])

    @property
    def relevance(self) -> npt.NDArray[np.float32]:
        """The maps enlarged to the picture, float32 (P, height, width) in [0, 1], with their peaks.

        Made anew at each call; for many prompts or a huge picture read `maps`.
        """
        size = (self.width, self.height)
        maps = [Image.fromarray(each).resize(size, Image.Resampling.BILINEAR) for each in self.maps]
        if not maps:
            return np.empty((0, self.height, self.width), np.float32)
        enlarged = np.asarray(maps, np.float32)
        # A peak of one pixel may lie between pixels of the picture.
        reached = np.maximum(enlarged.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
        return enlarged / reached * self.maps.max((1, 2), keepdims=True)

    def overlay(self, prompt: str) -> Image.Image:
        """The picture under the relevance map and the boxes of one prompt, with a legend.

        Raises ValueError when the prompt is not among those asked.
        """
        if prompt not in self.prompts:
            raise ValueError(f"{prompt!r} was not asked; the prompts are {list(self.prompts)}")
        index = self.prompts.index(prompt)
        boxes = [box for box in self.boxes if box.label == prompt]
        return render.overlay(
            self.pixels,
            self.maps[index],
            xyxy=_xyxy(boxes),
            scores=[box.score for box in boxes],
            title=prompt,
            presence=float(self.presence[index]),
        )

    def boxes_overlay(self, *, legend: bool = True) -> Image.Image:
        """The picture with the boxes of all prompts, and a legend that names what is not there."""
        return render.boxes_overlay(
            self.pixels,
            xyxy=_xyxy(self.boxes),
            labels=[box.label for box in self.boxes],
            scores=[box.score for box in self.boxes],
            prompts=self.prompts,
            presence=self.presence.tolist(),
            with_legend=legend,
        )

    def crop(self, box: Box) -> Image.Image:
        """What a box encloses, all of each pixel that it touches."""
        left, top, right, bottom = box.xyxy
        outer = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
        return Image.fromarray(self.pixels).crop(outer)

    def __repr__(self) -> str:
        """A line: arrays would fill the screen."""
        found = Counter(box.label for box in self.boxes)
        prompts = [
            f"{prompt!r}: {found[prompt]} box{'es' * (found[prompt] != 1)}, presence {sure:.2f}"
            for prompt, sure in zip(self.prompts[:_SHOWN], self.presence.tolist(), strict=False)
        ]
        more = ["..."] * (len(self.prompts) > _SHOWN)
        size = f"{self.width} x {self.height}"
        return f"<Localization of {self.file or 'a picture'}, {size}: {'; '.join(prompts + more)}>"

    def _repr_png_(self) -> bytes:
        """What notebooks show: the heatmap of a single prompt, or the boxes of several."""
        picture = self.overlay(self.prompts[0]) if len(self.prompts) == 1 else self.boxes_overlay()
        png = BytesIO()
        picture.save(png, "png")
        return png.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, in the form that `save_json` writes.

        Boxes have the form of Hugging Face's zero-shot-object-detection pipeline: whole pixels.
        """
        return {
            "version": JSON_VERSION,
            "image": {"file": self.file, "width": self.width, "height": self.height},
            "model": self.model,
            "prompts": list(self.prompts),
            "presence": [round(float(value), 4) for value in self.presence],
            "boxes": [
                {
                    "label": box.label,
                    "score": round(box.score, 4),
                    "box": dict(zip(_CORNERS, map(round, box.xyxy), strict=True)),
                }
                for box in self.boxes
            ],
        }

    def to_supervision(self) -> Any:
        """The boxes as ``supervision.Detections``: class_id is the prompt's place in `prompts`, and
        data["class_name"] the prompt itself.

        Raises ImportError where the extra `supervision` is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "to_supervision needs the extra 'supervision': "
                "pip install 'clip-localize[supervision]'"
            ) from error
        return supervision.Detections(
            xyxy=_xyxy(self.boxes),
            confidence=np.array([box.score for box in self.boxes], np.float32),
            class_id=np.array([self.prompts.index(box.label) for box in self.boxes], int),
            data={"class_name": np.array([box.label for box in self.boxes], str)},
        )

    def save_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` to a file, whole or not at all.

        Raises files.OutputError when the file cannot be written.
        """
        files.write_json(path, self.to_dict())


_SHOWN = 10
"""Prompts that the line of a result names."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _xyxy(boxes: list[Box]) -> npt.NDArray[np.float32]:
    return np.array([box.xyxy for box in boxes], np.float32).reshape(-1, 4)
