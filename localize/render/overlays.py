"""Pictures of results: heatmaps, labelled boxes, and a legend that says what they mean.

Plain arrays in, PIL images out. Knows neither models nor files, nor how a result was made.

The picture is drawn with its long side at 320 to 1600 pixels: smaller ones are enlarged and
larger ones shrunk. Strips are stretched to a short side of 32 and laid on paper, so that there is
room for labels. The legend is below.
"""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from localize.render import lettering
from localize.render.lettering import Colour

LONG_SIDE = (320, 1600)
SHORT_SIDE = 32
LEAST_PAPER = (320, 160)

OPACITY = 0.75
"""Of the heatmap where the relevance is 1. Where it is 0 the photo shows as it is."""

LEGEND_ENTRIES = 30

Pixels = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.int_]

_PAPER: Colour = (255, 255, 255)
_INK: Colour = (32, 33, 36)
_PALE: Colour = (110, 113, 120)
_HERE: Colour = (0, 140, 90)
_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)

_PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
"""Colours that the colour-blind can tell apart: Okabe and Ito 2008, Color Universal Design."""


def overlay(
    pixels: Pixels,
    relevance: npt.NDArray[np.float32] | None,
    *,
    xyxy: npt.ArrayLike,
    labels: Sequence[str],
    scores: Sequence[float],
    title: str | None = None,
    presence: float | None = None,
) -> Image.Image:
    """One prompt's relevance map and boxes on the photo.

    pixels: uint8 (H, W, 3), RGB.
    relevance: (h, w) in [0, 1] at any resolution, enlarged bilinearly; None for boxes alone.
    xyxy: (N, 4), in pixels of the photo, best first. labels, scores in [0, 1]: one a box.
    title: the prompt. presence: in [0, 1], how sure it is that the prompt is there at all.
    Returns an RGB image. The colours always span relevance 0 to 1, so that overlays compare.
    Raises ValueError when boxes, labels and scores differ in number.
    """
    canvas = _Canvas.of(pixels)
    rows = [] if title is None else [[line] for line in canvas.paragraph(title, scale=1.25)]
    facts = []
    if presence is not None:
        mark = canvas.dot(filled=len(scores) > 0 or presence >= 0.5)
        facts.append(canvas.entry(mark, canvas.text(_in_words(len(scores), presence))))
    if relevance is not None:
        canvas.heat(relevance)
        facts.append(canvas.colour_bar())
    boxes = canvas.place(xyxy)
    _check(boxes, labels, scores)
    white = [_WHITE] * len(boxes)
    canvas.draw_boxes(boxes, white)
    canvas.draw_labels(boxes, labels, scores, white)
    return canvas.above([*rows, facts])


def boxes_overlay(
    pixels: Pixels,
    *,
    xyxy: npt.ArrayLike,
    labels: Sequence[str],
    scores: Sequence[float],
    prompts: Sequence[str] = (),
    presence: Sequence[float] = (),
) -> Image.Image:
    """All prompts' boxes on the photo, one colour a prompt.

    pixels: uint8 (H, W, 3), RGB.
    xyxy: (N, 4), in pixels of the photo, best first. labels, scores in [0, 1]: one a box.
    prompts: what was asked, so that the legend can name also what was not found.
    presence: in [0, 1], one a prompt, or empty.
    Returns an RGB image.
    Raises ValueError when boxes, labels and scores, or prompts and presence, differ in number.
    """
    canvas = _Canvas.of(pixels)
    names = list(dict.fromkeys((*prompts, *labels)))
    colour_of = dict(zip(names, map(_colour, range(len(names))), strict=True))
    colours = [colour_of[label] for label in labels]
    boxes = canvas.place(xyxy)
    _check(boxes, labels, scores)
    canvas.draw_boxes(boxes, colours)
    canvas.draw_labels(boxes, labels, scores, colours)

    sure = dict(zip(prompts, presence, strict=True)) if len(presence) else {}
    counts = Counter(labels)
    names.sort(key=lambda name: not counts[name])
    entries = []
    for name in names[:LEGEND_ENTRIES]:
        swatch = canvas.swatch(colour_of[name], filled=counts[name] > 0)
        says = _count_in_words(counts[name], sure.get(name))
        entries.append(canvas.entry(swatch, canvas.text(name), canvas.text(says, colour=_PALE)))
    if more := len(names[LEGEND_ENTRIES:]):
        entries.append(canvas.text(f"and {more:,} more prompts", colour=_PALE))
    return canvas.above([entries])


def _check(boxes: Boxes, labels: Sequence[str], scores: Sequence[float]) -> None:
    if not len(boxes) == len(labels) == len(scores):
        raise ValueError(
            "boxes, labels and scores must be as many of each, "
            f"not {len(boxes)}, {len(labels)} and {len(scores)}"
        )


def _in_words(count: int, presence: float) -> str:
    sure = f"{_percent(presence)} sure it is"
    if count:
        return f"{sure} here"
    return f"not here ({sure})" if presence < 0.5 else f"no box, though {sure} here"


def _count_in_words(count: int, presence: float | None) -> str:
    boxes = f"{count} box{'es' * (count > 1)}" if count else "no box"
    if presence is None:
        return boxes
    return f"{boxes}, {_in_words(count, presence)}" if count else _in_words(count, presence)


def _percent(part: float) -> str:
    percent = round(100 * part)
    if percent == 100 and part < 1:
        return "over 99 %"
    return "under 1 %" if percent == 0 and part > 0 else f"{percent} %"


def _colour(index: int) -> Colour:
    """Colours for any number of prompts: the palette, then hues by the golden ratio."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _heat_colours(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Relevance (h, w) in [0, 1] as RGB in [0, 255], float32 (h, w, 3).

    Plasma (Smith and van der Walt 2015, matplotlib): even steps of relevance look even, from dark
    violet to bright yellow, to the colour-blind and in grey too.
    """
    bgr = cv2.applyColorMap((values * 255).round().astype(np.uint8), cv2.COLORMAP_PLASMA)
    return bgr[..., ::-1].astype(np.float32)


def _blend(ground: Pixels, values: npt.NDArray[np.float32]) -> Pixels:
    opacity = (OPACITY * values**0.75)[..., None]
    return (ground * (1 - opacity) + _heat_colours(values) * opacity).round().astype(np.uint8)


@dataclass
class _Canvas:
    """The picture at the size it is drawn, on paper if it is a strip, and what is drawn on it.

    image: RGB. picture: left, top, width and height of the photo in it.
    scale: (x, y) pixels of the canvas for one of the photo.
    size: of letters, in pixels. stroke: width of lines, in pixels.
    """

    image: Image.Image
    picture: tuple[int, int, int, int]
    scale: tuple[float, float]
    size: int
    stroke: int

    @classmethod
    def of(cls, pixels: Pixels) -> _Canvas:
        height, width = pixels.shape[:2]
        long_side = min(max(width, height, LONG_SIDE[0]), LONG_SIDE[1])
        scale = long_side / max(width, height)
        new = (max(SHORT_SIDE, round(width * scale)), max(SHORT_SIDE, round(height * scale)))
        # A few pixels are shown as the squares they are.
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST if scale > 4 else cv2.INTER_CUBIC
        resized = cv2.resize(pixels, new, interpolation=how).astype(np.uint8, copy=False)
        paper = Image.new("RGB", (max(new[0], LEAST_PAPER[0]), max(new[1], LEAST_PAPER[1])), _PAPER)
        left, top = (paper.width - new[0]) // 2, (paper.height - new[1]) // 2
        paper.paste(Image.fromarray(resized), (left, top))
        return cls(
            image=paper,
            picture=(left, top, *new),
            scale=(new[0] / width, new[1] / height),
            size=round(min(max(long_side / 42, 13), 32)),
            stroke=max(2, round(long_side / 320)),
        )

    def place(self, xyxy: npt.ArrayLike) -> Boxes:
        """Boxes of the photo as whole pixels of the canvas, int (N, 4), at least 2 x 2."""
        left, top, width, height = self.picture
        boxes = np.asarray(xyxy, np.float64).reshape(-1, 4) * np.tile(self.scale, 2)
        boxes = np.clip(np.nan_to_num(boxes), 0, np.tile((width, height), 2)).round().astype(int)
        starts = np.minimum(boxes[:, :2], (width - 2, height - 2))
        ends = np.maximum(boxes[:, 2:], starts + 2)
        return np.concatenate([starts, ends], axis=1) + np.tile((left, top), 2)

    def heat(self, relevance: npt.NDArray[np.float32]) -> None:
        left, top, width, height = self.picture
        values = np.clip(np.nan_to_num(np.asarray(relevance, np.float32)), 0, 1)
        values = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
        photo = np.asarray(self.image.crop((left, top, left + width, top + height)))
        self.image.paste(Image.fromarray(_blend(photo, values)), (left, top))

    def draw_boxes(self, boxes: Boxes, colours: Sequence[Colour]) -> None:
        """Outlines with a dark edge on either side, which shows on anything; the best on top."""
        draw = ImageDraw.Draw(self.image)
        for box, colour in reversed(list(zip(boxes.tolist(), colours, strict=True))):
            left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
            edge = (left - 1, top - 1, right + 1, bottom + 1)
            draw.rectangle(edge, outline=_BLACK, width=self.stroke + 2)
            draw.rectangle((left, top, right, bottom), outline=colour, width=self.stroke)

    def draw_labels(
        self,
        boxes: Boxes,
        labels: Sequence[str],
        scores: Sequence[float],
        colours: Sequence[Colour],
    ) -> None:
        """One label a box, where it covers least; none where it would hide in other labels."""
        tags, places = [], np.empty((0, 4), int)
        for box, label, score, colour in zip(boxes, labels, scores, colours, strict=True):
            tag = self._tag(label, score, colour)
            place = _best_place(box, tag.size, self.image.size, places, boxes)[None]
            if _overlaps(place, places).sum() <= 0.15 * tag.width * tag.height:
                tags.append(tag)
                places = np.concatenate([places, place])
        for tag, place in reversed(list(zip(tags, places.tolist(), strict=True))):
            self.image.paste(tag, (place[0], place[1]))

    def _tag(self, label: str, score: float, colour: Colour) -> Image.Image:
        ink = _BLACK if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else _WHITE
        figure = lettering.line(f"{score:.2f}", self.size, ink)
        room = 0.6 * self.image.width - figure.width
        name = lettering.line(label, self.size, ink, max_width=max(room, 4 * self.size))
        words = _row([name, figure], gap=self.size // 2)
        pad = self.size // 3
        tag = Image.new("RGB", (words.width + 2 * pad, words.height), colour)
        tag.paste(words, (pad, 0), words)
        ImageDraw.Draw(tag).rectangle((0, 0, tag.width - 1, tag.height - 1), outline=_BLACK)
        return tag

    def text(self, text: str, scale: float = 1, colour: Colour = _INK) -> Image.Image:
        room = self.image.width - 4 * self.size
        return lettering.line(text, round(self.size * scale), colour, max_width=room)

    def paragraph(self, text: str, scale: float) -> list[Image.Image]:
        """A text on up to three lines, broken between words."""
        size, room = round(self.size * scale), self.image.width - 4 * self.size
        lines = [""]
        for word in text[: 3 * lettering.LONGEST].split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and len(lines) < 3 and lettering.line(longer, size, _INK).width > room:
                lines.append(word)
            else:
                lines[-1] = longer
        return [self.text(line, scale) for line in lines]

    def entry(self, *parts: Image.Image) -> Image.Image:
        return _row(parts, gap=self.size // 2)

    def dot(self, filled: bool) -> Image.Image:
        """A full circle for what is there, an empty one for what is not."""
        mark = Image.new("RGBA", (4 * self.size, 4 * self.size), (*_PAPER, 0))
        edges = (self.size // 2, self.size // 2, 7 * self.size // 2, 7 * self.size // 2)
        draw = ImageDraw.Draw(mark)
        draw.ellipse(edges, _HERE if filled else None, _HERE if filled else _PALE, self.size // 2)
        return mark.resize((self.size, self.size), Image.Resampling.LANCZOS)

    def swatch(self, colour: Colour, filled: bool) -> Image.Image:
        """A full square for what has boxes, an empty one for what has none."""
        mark = Image.new("RGBA", (self.size, self.size), (*colour, 255 if filled else 0))
        edges = (0, 0, self.size - 1, self.size - 1)
        ImageDraw.Draw(mark).rectangle(edges, outline=_INK if filled else _PALE)
        return mark

    def colour_bar(self) -> Image.Image:
        """What the colours mean, as they look over a grey photo."""
        width, height = 8 * self.size, self.size
        values = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
        bar = Image.fromarray(_blend(np.full((height, width, 3), 160, np.uint8), values))
        ends = [self.text("relevance", colour=_PALE), self.text("0"), bar, self.text("1")]
        return self.entry(*ends)

    def above(self, rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
        """The picture with a legend below it: rows of entries in columns, wrapped to its width."""
        margin, gap = self.size, 3 * self.size // 2
        places: list[tuple[Image.Image, int, int]] = []
        bottom = self.image.height + margin // 2
        for row in filter(None, rows):
            x, y, height = margin, bottom, 0
            column = max(entry.width for entry in row) + gap
            for entry in row:
                if x > margin and x + entry.width > self.image.width - margin:
                    x, y, height = margin, y + height, 0
                places.append((entry, x, y))
                x, height = x + column, max(height, entry.height)
            bottom = y + height
        if not places:
            return self.image
        whole = Image.new("RGB", (self.image.width, bottom + margin // 2), _PAPER)
        whole.paste(self.image)
        for entry, x, y in places:
            whole.paste(entry, (x, y), entry)
        return whole


def _row(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """Images side by side, each in the middle of the height, on one that is transparent."""
    height = max(image.height for image in images)
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    row = Image.new("RGBA", (width, height))
    x = 0
    for image in images:
        row.paste(image, (x, (height - image.height) // 2))
        x += image.width + gap
    return row


def _best_place(
    box: npt.NDArray[np.int_],
    size: tuple[int, int],
    canvas: tuple[int, int],
    taken: Boxes,
    boxes: Boxes,
) -> npt.NDArray[np.int_]:
    """Where a label of this size covers the fewest labels, and then the least of the boxes.

    Tried are the corners of its box, outside before inside, moved into the canvas.
    Returns int (4,), xyxy in pixels of the canvas.
    """
    (left, top, right, bottom), (width, height) = box.tolist(), size
    corners = [
        (x, y) for y in (top - height, bottom, top, bottom - height) for x in (left, right - width)
    ]
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
