"""Legends: entries of a mark, a name and what is said of it, laid out to a width.

Knows letters and layout; must not know the photo or what the words mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from localize.render import lettering
from localize.render.colours import INK, PALE

NAME_LINES = 2
"""Lines that a name takes at most; what is longer ends in "…"."""


class Entry(NamedTuple):
    """mark: its image. name: cut where it is long. says: never cut while it fits at all."""

    mark: Image.Image
    name: str
    says: str


def columns(entries: Sequence[Entry], width: int, size: int) -> Image.Image:
    """Entries from top to bottom in as many columns of one width as there is room for.

    width: of the whole, in pixels. size: of the letters. Returns an RGBA image.
    An entry that is much longer than the others gets two lines rather than fewer columns.
    """
    gap = 2 * size
    wanted = sorted(map(sum, (_widths(entry, size) for entry in entries)))
    usual = wanted[math.ceil(0.85 * len(wanted)) - 1]
    count = int(np.clip((width + gap) // (usual + gap), 1, len(entries)))
    rows = math.ceil(len(entries) / count)
    room = min(width, (width + gap) // count - gap)
    stacks = [
        column([_cell(entry, room, size) for entry in entries[start : start + rows]])
        for start in range(0, len(entries), rows)
    ]
    return row(stacks, gap, align=0)


def listing(
    mark: Image.Image, heading: str, names: Sequence[str], width: int, size: int
) -> Image.Image:
    """Names after a mark and a heading, flowing over as many lines as they take."""
    room = width - mark.width - size // 2
    words = [lettering.line(heading, size, PALE)]
    for number, name in enumerate(names, 1):
        comma = lettering.line("," if number < len(names) else "", size, INK)
        words.append(row([lettering.line(name, size, INK, room - comma.width), comma], 0))
    return _marked(mark, wrapped(words, room, size // 2), words[0].height)


def wrapped(images: Sequence[Image.Image], width: int, gap: int) -> Image.Image:
    """Images side by side where the width allows it, and below one another where not."""
    lines: list[list[Image.Image]] = []
    for image in images:
        used = sum(other.width + gap for other in lines[-1]) if lines else math.inf
        if used + image.width > width:
            lines.append([])
        lines[-1].append(image)
    return column([row(line, gap) for line in lines])


def row(images: Sequence[Image.Image], gap: int, align: float = 0.5) -> Image.Image:
    """Images side by side on one that is transparent.

    align: from 0, at the top, over 0.5, in the middle, to 1, at the bottom.
    """
    height = max(image.height for image in images)
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    whole = Image.new("RGBA", (width, height))
    x = 0
    for image in images:
        whole.paste(image, (x, round(align * (height - image.height))))
        x += image.width + gap
    return whole


def column(images: Sequence[Image.Image]) -> Image.Image:
    """Images below one another on one that is transparent."""
    size = max(image.width for image in images), sum(image.height for image in images)
    whole = Image.new("RGBA", size)
    y = 0
    for image in images:
        whole.paste(image, (0, y))
        y += image.height
    return whole


def _widths(entry: Entry, size: int) -> tuple[int, int]:
    """What an entry takes on one line: its mark and name, and what is said with the gap before."""
    name = entry.mark.width + size // 2 + lettering.width(entry.name, size)
    return name, size // 2 + lettering.width(entry.says, size) if entry.says else 0


def _cell(entry: Entry, width: int, size: int) -> Image.Image:
    """One entry: on one line if it has room, otherwise what is said comes after the name's end."""
    gap = size // 2
    room = width - entry.mark.width - gap
    says = lettering.line(entry.says, size, PALE, max_width=room) if entry.says else None
    one_line = sum(_widths(entry, size)) <= width
    lines = lettering.paragraph(entry.name, size, INK, room, 1 if one_line else NAME_LINES)
    if says and lines[-1].width + gap + says.width <= room:
        lines[-1] = row([lines[-1], says], gap)
    elif says:
        lines.append(says)
    return _marked(entry.mark, column(lines), lines[0].height)


def _marked(mark: Image.Image, text: Image.Image, first_line: int) -> Image.Image:
    """A text after a mark, which stands in the middle of the text's first line."""
    gap = mark.width // 2
    whole = Image.new("RGBA", (mark.width + gap + text.width, text.height))
    whole.paste(mark, (0, (first_line - mark.height) // 2))
    whole.paste(text, (mark.width + gap, 0))
    return whole
