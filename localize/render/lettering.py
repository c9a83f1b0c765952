"""Lines of text in any script, drawn with the fonts that this machine has.

Knows fonts; must not know pictures, boxes or what a text is about.
"""

from __future__ import annotations

import math
import os
import re
import sys
import unicodedata
import warnings
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from localize.render.colours import Colour

BUILT_IN = ""
"""Stands for the font that Pillow brings: Latin letters, the same on every machine."""

LONGEST = 300
"""Characters of a text that are looked at; no line is wide enough for more."""

MOST_FONTS = 400
"""Font files that are looked into, so that a machine with thousands does not take seconds."""

_FOLDERS = {
    "win32": ["%WINDIR%/Fonts", "%LOCALAPPDATA%/Microsoft/Windows/Fonts"],
    "darwin": ["/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"],
}.get(
    sys.platform,
    ["/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts"],
)

_ZERO_WIDTH_JOINER = "\u200d"
_JOINERS = "\u200c" + _ZERO_WIDTH_JOINER

_UNSPACED = "\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
_BREAKABLE = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
"""A word, or a character of Chinese, Japanese or Korean, with the spaces before it."""

_STYLES = ("bold", "italic", "oblique", "mono", "serif", "condensed", "light", "thin", "black")
_PLACEHOLDERS = ("lastresort", "blank")
"""Fonts by these names draw something for every character, and say nothing by it."""

_STRIKES = (109, 160, 136, 128, 96, 64)
"""Pixel sizes that colour emoji fonts come in, where they can't be scaled."""


def line(text: str, size: int, colour: Colour, max_width: float = math.inf) -> Image.Image:
    """Draw a text on one line.

    size: of the letters, in pixels. max_width: in pixels; a longer text is cut, ending in "…".
    Returns an RGBA image, transparent behind the letters, 1.5 * size high. Characters that no
    font of this machine has are drawn as their code points, such as U+732B.
    """
    shown = _clean(text)
    drawn = _draw(shown, size, colour)
    kept = _clusters(shown)
    while drawn.width > max_width and kept:
        kept = kept[: min(len(kept) - 1, int(len(kept) * max_width / drawn.width))]
        drawn = _draw("".join(kept).rstrip() + "…", size, colour)
    return drawn


def paragraph(
    text: str, size: int, colour: Colour, max_width: int, most_lines: int
) -> list[Image.Image]:
    """Draw a text on lines no wider than `max_width` pixels; the last is cut as `line` cuts.

    Lines are broken between words, and between the characters of scripts without spaces.
    """
    lines = [""]
    for piece in _BREAKABLE.findall(_clean(text)):
        longer = lines[-1] + piece
        full = lines[-1] and width(longer, size) > max_width
        if full and len(lines) < most_lines:
            lines.append(piece.lstrip())
        else:
            lines[-1] = longer
    return [line(each, size, colour, max_width) for each in lines]


def width(text: str, size: int) -> int:
    """Pixels that `line` takes for a text without a limit."""
    return _draw(_clean(text), size, (0, 0, 0)).width


def _clean(text: str) -> str:
    """A text as it is drawn: in composed form, with plain spaces, and no longer than `LONGEST`."""
    shown = "".join(char if char.isprintable() or char in _JOINERS else " " for char in text)
    return unicodedata.normalize("NFC", " ".join(shown.split()))[:LONGEST]


def runs(text: str) -> list[tuple[str, str]]:
    """Cut a text into (font file, piece) where one font does not have all of it.

    A piece stays with its font for as long as that has the characters, so that Arabic with a
    Latin word in it is laid out as one.
    """
    found: list[tuple[str | None, str]] = []
    for cluster in _clusters(text):
        before, piece = found[-1] if found else (None, "")
        if before is not None and _continues(before, cluster):
            font: str | None = before
        else:
            font = _font_file(cluster)
        if found and font == before:
            found[-1] = (font, piece + cluster)
        else:
            found.append((font, cluster))
    return [_drawable(font, piece) for font, piece in found]


def as_drawn(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pieces of a text, given as it is read, from left to right.

    Each piece is laid out by its font; a text that begins from the right has its first one there.
    """
    if not _is_from_right_to_left("".join(piece for _, piece in pieces)):
        return pieces
    return [(font, _spaces_swapped(piece)) for font, piece in reversed(pieces)]


def _clusters(text: str) -> list[str]:
    """Characters, each with the marks and joiners that belong to it."""
    found: list[str] = []
    for char in text:
        attached = _is_joiner(char) or unicodedata.category(char) in ("Mn", "Mc", "Me")
        if found and (attached or found[-1][-1] == _ZERO_WIDTH_JOINER):
            found[-1] += char
        else:
            found.append(char)
    return found


def _continues(font: str, cluster: str) -> bool:
    """Emoji fonts have digits too, which belong on keys: plain text does not go on in them."""
    return _covers(font, cluster) and (not cluster.isascii() or _covers(font, "a"))


def _drawable(font: str | None, piece: str) -> tuple[str, str]:
    if font is None:
        message = (
            "no font of this machine has some characters of a text, which are drawn as their code "
            "points, such as U+732B; fonts such as Noto's have them"
        )
        warnings.warn(message, UserWarning, stacklevel=2)
        return BUILT_IN, " " + " ".join(f"U+{ord(char):04X}" for char in piece) + " "
    if font == BUILT_IN:  # It has nothing for joiners, and would draw a box for each.
        return font, "".join(char for char in piece if not _is_joiner(char))
    return font, piece


def _is_joiner(char: str) -> bool:
    """Joiners and variation selectors show nothing by themselves."""
    return char in _JOINERS or "\ufe00" <= char <= "\ufe0f"


def _draw(text: str, size: int, colour: Colour) -> Image.Image:
    pieces = [_draw_run(font, piece, size, colour) for font, piece in as_drawn(runs(text))]
    edges = list(accumulate((piece.width for piece in pieces), initial=0))
    whole = Image.new("RGBA", (max(1, edges[-1]), round(1.5 * size)), (*colour, 0))
    for left, piece in zip(edges, pieces, strict=False):
        whole.paste(piece, (left, 0))
    return whole


def _is_from_right_to_left(text: str) -> bool:
    """Whether the first letter is Arabic, Hebrew or the like (Unicode's bidirectional rule P2)."""
    strong = (unicodedata.bidirectional(char) for char in text)
    return next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"


def _spaces_swapped(piece: str) -> str:
    """The space before a piece after it and the other way round, unless it runs to the left too."""
    if _is_from_right_to_left(piece) or piece.isspace():
        return piece
    before = piece[: len(piece) - len(piece.lstrip())]
    after = piece[len(piece.rstrip()) :]
    return after + piece.strip() + before


def _draw_run(file: str, text: str, size: int, colour: Colour) -> Image.Image:
    font, drawn_size = _font(file, size)
    width = max(1, math.ceil(font.getlength(text)))
    canvas = Image.new("RGBA", (width, round(1.5 * drawn_size)), (*colour, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 1.1 * drawn_size), text, colour, font, anchor="ls", embedded_color=True)
    if drawn_size == size:
        return canvas
    shrunk = (max(1, round(width * size / drawn_size)), round(1.5 * size))
    return canvas.resize(shrunk, Image.Resampling.LANCZOS)


@lru_cache(maxsize=64)
def _font(
    file: str, size: int, layout: ImageFont.Layout | None = None
) -> tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, int]:
    """A font and the size it has: bitmap fonts come in few. Raises OSError when unreadable."""
    if file == BUILT_IN:
        return ImageFont.load_default(size), size
    for possible in (size, *_STRIKES):
        try:
            return ImageFont.truetype(file, possible, layout_engine=layout), possible
        except OSError:
            continue
    raise OSError(f"{file} is no font that can be read")


@lru_cache(maxsize=4096)
def _font_file(cluster: str) -> str | None:
    """The first font that has all characters of a cluster."""
    return next((file for file in (BUILT_IN, *_font_files()) if _covers(file, cluster)), None)


@cache
def _font_files() -> tuple[str, ...]:
    """The machine's font files: colour emoji, then plain upright sans-serif ones, then others."""
    found = [
        str(path)
        for folder in _FOLDERS
        for path in Path(os.path.expandvars(os.path.expanduser(folder))).rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]

    def rank(file: str) -> tuple[bool, int, bool, str]:
        name = Path(file).stem.lower()
        styles = sum(style in name for style in _STYLES)
        return "emoji" not in name, styles, "sans" not in name, file

    telling = [file for file in found if not any(p in file.lower() for p in _PLACEHOLDERS)]
    return tuple(sorted(telling, key=rank)[:MOST_FONTS])


def _covers(file: str, cluster: str) -> bool:
    return all(_has(file, char) for char in cluster if not _is_joiner(char))


@lru_cache(maxsize=16384)
def _has(file: str, char: str) -> bool:
    """Whether a font has a character: what it draws is not what it draws for one that none has."""
    if char.isspace():
        return True
    try:
        return _glyph(file, char) not in (_glyph(file, "\U0010fffe"), None)
    except OSError:  # A broken font, or one of a kind that can't be read.
        return False


@lru_cache(maxsize=1024)
def _glyph(file: str, char: str) -> int | None:
    """A hash of what a font draws for a character, or None when that is nothing.

    Without shaping, which would put a circle under a mark that stands alone.
    """
    font, size = _font(file, 24, ImageFont.Layout.BASIC)
    image = Image.new("RGBA", (2 * size, 2 * size))
    place = (size // 2, 1.5 * size)
    ImageDraw.Draw(image).text(place, char, "white", font, anchor="ls", embedded_color=True)
    return hash(image.tobytes()) if image.getbbox() else None
