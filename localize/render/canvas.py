"""The picture that is drawn on: heat, boxes and labels on the photo, and a legend below it.

Knows pixels, colours and letters; must not know what the legend says.

The photo is drawn with its long side at 320 to 1600 pixels: smaller ones are enlarged and larger
ones shrunk. Strips are stretched to a short side of 32 and laid on paper, so that there is room
for labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from localize.render import lettering
from localize.render.colours import (
    BLACK,
    PALE,
    PAPER,
    Colour,
    Pixels,
    faded,
    heat_over,
    ink_on,
)
from localize.render.legend import row

LONG_SIDE = (320, 1600)
SHORT_SIDE = 32
LEAST_PAPER = (320, 160)

Boxes = npt.NDArray[np.int_]


@dataclass
class Canvas:
    """The photo at the size it is drawn, on paper if it is a strip, and what is drawn on it.

    image: RGB. photo: left, top, width and height of the photo in it.
    scale: (x, y) pixels of the canvas for one of the photo.
    size: of letters, in pixels. stroke: width of lines, in pixels.
    """

    image: Image.Image
    photo: tuple[int, int, int, int]
    scale: tuple[float, float]
    size: int
    stroke: int

    @classmethod
    def of(cls, pixels: Pixels) -> Canvas:
        height, width = pixels.shape[:2]
        long_side = min(max(width, height, LONG_SIDE[0]), LONG_SIDE[1])
        scale = long_side / max(width, height)
        new = (max(SHORT_SIDE, round(width * scale)), max(SHORT_SIDE, round(height * scale)))
        # A few pixels are shown as the squares they are.
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST if scale > 4 else cv2.INTER_CUBIC
        resized = cv2.resize(pixels, new, interpolation=how).astype(np.uint8, copy=False)
        paper = Image.new("RGB", (max(new[0], LEAST_PAPER[0]), max(new[1], LEAST_PAPER[1])), PAPER)
        left, top = (paper.width - new[0]) // 2, (paper.height - new[1]) // 2
        paper.paste(Image.fromarray(resized), (left, top))
        # By the area: letters sized by a panorama's long side would fill its short one.
        side = math.sqrt(new[0] * new[1])
        return cls(
            image=paper,
            photo=(left, top, *new),
            scale=(new[0] / width, new[1] / height),
            size=round(min(max(side / 40, 13), 30)),
            stroke=max(2, round(side / 300)),
        )

    def place(self, xyxy: npt.ArrayLike) -> Boxes:
        """Boxes of the photo as whole pixels of the canvas, int (N, 4), at least 2 x 2."""
        left, top, width, height = self.photo
        boxes = np.asarray(xyxy, np.float64).reshape(-1, 4) * np.tile(self.scale, 2)
        boxes = np.clip(np.nan_to_num(boxes), 0, np.tile((width, height), 2)).round().astype(int)
        starts = np.minimum(boxes[:, :2], (width - 2, height - 2))
        ends = np.maximum(boxes[:, 2:], starts + 2)
        return np.concatenate([starts, ends], axis=1) + np.tile((left, top), 2)

    def heat(self, relevance: npt.ArrayLike) -> None:
        """Lay the heat of a map (h, w) of any resolution on the photo."""
        values = np.clip(np.nan_to_num(np.asarray(relevance, np.float32)), 0, 1)
        values = cv2.resize(values, self.photo[2:], interpolation=cv2.INTER_LINEAR)
        photo = np.asarray(self.image.crop(self._photo_edges()))
        heated = heat_over(photo, np.asarray(values, np.float32))
        self.image.paste(Image.fromarray(heated), self._photo_edges())

    def fade_outside(self, boxes: Boxes) -> None:
        """Let the photo step back where no box is."""
        photo = np.asarray(self.image.crop(self._photo_edges()))
        self.image.paste(Image.fromarray(faded(photo)), self._photo_edges())
        for box in boxes.tolist():
            left, top = self.photo[:2]
            inside = photo[box[1] - top : box[3] - top, box[0] - left : box[2] - left]
            self.image.paste(Image.fromarray(inside), (box[0], box[1]))

    def _photo_edges(self) -> tuple[int, int, int, int]:
        left, top, width, height = self.photo
        return left, top, left + width, top + height

    def draw_boxes(self, boxes: Boxes, colours: Sequence[Colour]) -> None:
        """Outlines with a dark edge on either side, which shows on anything; the best on top."""
        draw = ImageDraw.Draw(self.image)
        for box, colour in reversed(list(zip(boxes.tolist(), colours, strict=True))):
            left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
            edge = (left - 1, top - 1, right + 1, bottom + 1)
            draw.rectangle(edge, outline=BLACK, width=self.stroke + 2)
            draw.rectangle((left, top, right, bottom), outline=colour, width=self.stroke)

    def draw_labels(
        self, boxes: Boxes, labels: Sequence[tuple[str, str]], colours: Sequence[Colour]
    ) -> None:
        """One label a box, where it covers least; none where it would hide in other labels.

        labels: of each box a name, which is cut where it is long, and a figure, which is not.
        """
        tags, places = [], np.empty((0, 4), int)
        for box, (name, figure), colour in zip(boxes, labels, colours, strict=True):
            tag = self._tag(name, figure, colour)
            place = _best_place(box, tag.size, self.image.size, places, boxes)[None]
            if _overlaps(place, places).sum() <= 0.02 * tag.width * tag.height:
                tags.append(tag)
                places = np.concatenate([places, place])
        for tag, place in reversed(list(zip(tags, places.tolist(), strict=True))):
            self.image.paste(tag, (place[0], place[1]))

    def _tag(self, name: str, figure: str, colour: Colour) -> Image.Image:
        ink, half = ink_on(colour), self.size // 2
        figures = lettering.line(figure, self.size, ink)
        room = max(min(0.5 * self.image.width - figures.width, 16 * self.size), 4 * self.size)
        names = [lettering.line(name, self.size, ink, max_width=room)] if name.strip() else []
        words = row([*names, figures], gap=half)
        pad = self.size // 3
        tag = Image.new("RGB", (words.width + 2 * pad, round(1.3 * self.size)), colour)
        tag.paste(words, (pad, (tag.height - words.height) // 2), words)
        ImageDraw.Draw(tag).rectangle((0, 0, tag.width - 1, tag.height - 1), outline=BLACK)
        return tag

    def colour_bar(self, width: int) -> Image.Image:
        """Relevance from 0 to 1 as it looks over a grey photo."""
        values = np.tile(np.linspace(0, 1, width, dtype=np.float32), (self.size, 1))
        grey = np.full((self.size, width, 3), 160, np.uint8)
        return Image.fromarray(heat_over(grey, values))

    def mark(self, colour: Colour, filled: float) -> Image.Image:
        """A square of a colour, filled from below: all of it, half of it or none."""
        size, line = self.size, max(2, self.size // 8)
        mark = Image.new("RGBA", (size, size), (*PAPER, 0))
        draw = ImageDraw.Draw(mark)
        if filled:
            draw.rectangle((0, round(size * (1 - filled)), size - 1, size - 1), colour)
        draw.rectangle((0, 0, size - 1, size - 1), None, colour if filled else PALE, line)
        return mark

    def above(self, legend: Image.Image | None) -> Image.Image:
        """The picture with a legend below it."""
        if legend is None:
            return self.image
        margin = self.size // 2
        height = self.image.height + legend.height + 2 * margin
        whole = Image.new("RGB", (self.image.width, height), PAPER)
        whole.paste(self.image)
        whole.paste(legend, (self.size, self.image.height + margin), legend)
        return whole


def _best_place(
    box: npt.NDArray[np.int_],
    size: tuple[int, int],
    canvas: tuple[int, int],
    taken: Boxes,
    boxes: Boxes,
) -> npt.NDArray[np.int_]:
    """Where a label of this size covers the fewest labels, and then the least of the boxes.

    Tried are the corners of its box, outside before inside, then the places beside it and in it,
    all moved into the canvas. Returns int (4,), xyxy in pixels of the canvas.
    """
    (left, top, right, bottom), (width, height) = box.tolist(), size
    middle = ((left + right - width) // 2, (top + bottom - height) // 2)
    corners = [
        (x, y) for y in (top - height, bottom, top, bottom - height) for x in (left, right - width)
    ]
    corners += [(x, y) for y in (top, bottom - height) for x in (right, left - width)]
    corners += [(left, middle[1]), middle, (right, middle[1]), (left - width, middle[1])]
    starts = np.clip(corners, 0, np.maximum(np.subtract(canvas, size), 0))
    places = np.concatenate([starts, starts + size], axis=1)
    area = width * height
    cost = 10 * _overlaps(places, taken).sum(1) + np.minimum(_overlaps(places, boxes).sum(1), area)
    return places[np.argmin(cost + 0.01 * area * np.arange(len(places)))]


def _overlaps(some: Boxes, others: Boxes) -> Boxes:
    """Areas that each box has in common with each of the others, int (N, M)."""
    starts = np.maximum(some[:, None, :2], others[None, :, :2])
    ends = np.minimum(some[:, None, 2:], others[None, :, 2:])
    return np.maximum(ends - starts, 0).prod(2)
