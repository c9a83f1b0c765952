"""Pictures of results: heat on the photo, labelled boxes, and a legend that says what they mean.

Plain arrays in, PIL images out. Knows neither models nor files, nor how a result was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy.typing as npt
from PIL import Image

from localize.render import legend, lettering
from localize.render.canvas import Boxes, Canvas
from localize.render.colours import HERE, INK, PALE, PALETTE, WHITE, Pixels, colour_of
from localize.render.legend import Entry

LEGEND_ENTRIES = 30

TITLE_LINES = 3

_NOT_HERE = "not here"


def overlay(
    pixels: Pixels,
    relevance: npt.ArrayLike | None,
    *,
    xyxy: npt.ArrayLike,
    scores: Sequence[float],
    title: str | None = None,
    presence: float | None = None,
) -> Image.Image:
    """One prompt's relevance map and boxes on the photo, which steps back behind the heat.

    pixels: uint8 (H, W, 3), RGB.
    relevance: (h, w) in [0, 1] at any resolution, enlarged bilinearly; None for boxes alone, on
        the photo as it is.
    xyxy: (N, 4), in pixels of the photo, best first. scores: in [0, 1], one a box.
    title: the prompt. presence: in [0, 1], the chance that the prompt is there at all.
    Returns an RGB image. The colours always span relevance 0 to 1, so that overlays compare.
    Raises ValueError when boxes and scores differ in number.
    """
    canvas = Canvas.of(pixels)
    if relevance is not None:
        canvas.heat(relevance)
    boxes = canvas.place(xyxy)
    _check(boxes, scores=scores)
    white = [WHITE] * len(boxes)
    canvas.draw_boxes(boxes, white)
    canvas.draw_labels(boxes, [("", _percent(score)) for score in scores], white)

    size, width = canvas.size, canvas.image.width - 2 * canvas.size
    parts = []
    if title is not None:
        parts += lettering.paragraph(title, round(1.25 * size), INK, width, TITLE_LINES)
    facts = []
    if presence is not None:
        mark = canvas.mark(HERE, _filled(len(scores), presence))
        words = lettering.line(in_words(len(scores), presence), size, INK, max_width=width)
        facts.append(legend.row([mark, words], size // 2))
    if relevance is not None:
        ends = [lettering.line(word, size, PALE) for word in (_NOT_HERE, "here")]
        facts.append(legend.row([ends[0], canvas.colour_bar(6 * size), ends[1]], size // 2))
    if facts:
        parts.append(legend.wrapped(facts, width, 2 * size))
    return canvas.above(legend.column(parts) if parts else None)


def boxes_overlay(
    pixels: Pixels,
    *,
    xyxy: npt.ArrayLike,
    labels: Sequence[str],
    scores: Sequence[float],
    prompts: Sequence[str] = (),
    presence: Sequence[float] = (),
    with_legend: bool = True,
) -> Image.Image:
    """All prompts' boxes on the photo, one colour a prompt; outside of boxes the photo is faded.

    pixels: uint8 (H, W, 3), RGB.
    xyxy: (N, 4), in pixels of the photo, best first. labels, scores in [0, 1]: one a box.
    prompts: what was asked, so that the legend can name also what was not found.
    presence: in [0, 1], one a prompt, or empty.
    with_legend: without it pictures of one size give overlays of one size, as for a video.
    Returns an RGB image. The legend has what was found first, and at most `LEGEND_ENTRIES`.
    Raises ValueError when boxes, labels and scores, or prompts and presence, differ in number.
    """
    canvas = Canvas.of(pixels)
    counts = Counter(labels)
    names = list(dict.fromkeys((*prompts, *labels)))
    found_first = sorted(names, key=lambda name: not counts[name])
    # In the order of the prompts, so that a prompt has one colour in all pictures of a run.
    in_order = names if len(names) <= len(PALETTE) else found_first
    colours = {name: colour_of(number) for number, name in enumerate(in_order)}
    boxes = canvas.place(xyxy)
    _check(boxes, labels=labels, scores=scores)
    canvas.fade_outside(boxes)
    box_colours = [colours[label] for label in labels]
    canvas.draw_boxes(boxes, box_colours)
    texts = [(label, _percent(score)) for label, score in zip(labels, scores, strict=True)]
    canvas.draw_labels(boxes, texts, box_colours)
    if not with_legend:
        return canvas.image

    sure = dict(zip(prompts, presence, strict=True)) if len(presence) else {}
    size, width = canvas.size, canvas.image.width - 2 * canvas.size
    entries, absent = [], []
    for name in found_first[:LEGEND_ENTRIES]:
        says = in_words(counts[name], sure.get(name))
        if says == _NOT_HERE:
            absent.append(name)
        else:
            mark = canvas.mark(colours[name], 1 if counts[name] else 0)
            entries.append(Entry(mark, name, says))
    parts = [legend.columns(entries, width, size)] if entries else []
    if absent:
        mark, heading = canvas.mark(PALE, 0), f"{_NOT_HERE}:"
        parts.append(legend.listing(mark, heading, absent, width, size))
    if more := len(names[LEGEND_ENTRIES:]):
        plural = "s" * (more > 1)
        parts.append(lettering.line(f"and {more:,} more prompt{plural}", size, PALE))
    return canvas.above(legend.column(parts) if parts else None)


def _check(boxes: Boxes, **others: Sequence[object]) -> None:
    if any(len(other) != len(boxes) for other in others.values()):
        names = " and ".join(["boxes", *others][-2:])
        first = "boxes, " if len(others) > 1 else ""
        counts = ", ".join(str(len(each)) for each in (boxes, *others.values()))
        raise ValueError(f"{first}{names} must be as many of each, not {counts}")


def _filled(count: int, presence: float) -> float:
    """How full the mark of a prompt is: all where it is there, half where that is in doubt."""
    if presence >= 0.5:
        return 1
    return 0.5 if count else 0


def in_words(count: int, presence: float | None) -> str:
    """Whether a prompt with this many boxes is there, for a stranger.

    presence: the chance that it is, or None where it is not known.
    """
    boxes = f"{count} boxes" if count > 1 else ""
    if presence is None:
        return boxes or ("1 box" if count else _NOT_HERE)
    chance = _percent(presence)
    if count:
        here = "here" if presence >= 0.5 else "perhaps here"
        return f"{here} ({chance})" + (f", {boxes}" if boxes else "")
    if presence >= 0.5:
        return f"here ({chance}), place unclear"
    return _NOT_HERE if presence < 0.1 else f"probably not here ({chance})"


def _percent(part: float) -> str:
    """Whole percents; never all or nothing for what is only close to it."""
    percent = round(100 * part)
    if percent == 100 and part < 1:
        return "over 99 %"
    return "under 1 %" if percent == 0 and part > 0 else f"{percent} %"
