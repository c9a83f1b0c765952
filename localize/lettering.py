"""One line of text in any script, drawn with the fonts that this machine has.

Knows fonts; must not know pictures, boxes or what a text is about.
"""

from __future__ import annotations

import math
import os
import sys
import unicodedata
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BUILT_IN = ""
"""Stands for the font that Pillow brings: Latin letters, the same on every machine."""

LONGEST = 300
"""Characters of a text that are looked at; no line is wide enough for more."""

_FOLDERS = {
    "win32": ["{WINDIR}/Fonts", "{LOCALAPPDATA}/Microsoft/Windows/Fonts"],
    "darwin": ["/System/Library/Fonts", "/Library/Fonts", "{HOME}/Library/Fonts"],
}.get(
    sys.platform,
    ["/usr/share/fonts", "/usr/local/share/fonts", "{HOME}/.fonts", "{HOME}/.local/share/fonts"],
)

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
    text = " ".join("".join(c if c.isprintable() or _is_joiner(c) else " " for c in text).split())
    text = text[:LONGEST]
    drawn = _draw(text, size, colour)
    kept = len(text)
    while drawn.width > max_width and kept:
        kept = min(kept - 1, int(kept * max_width / drawn.width))
        drawn = _draw(text[:kept].rstrip() + "…", size, colour)
    return drawn


def runs(text: str) -> list[tuple[str, str]]:
    """Cut a text into (font file, piece) where one font does not have all of it.

    A piece stays with its font for as long as that has the characters, so that Arabic with a
    Latin word in it is laid out as one.
    """
    found: list[tuple[str, str]] = []
    for char in text:
        font = _font_file(char)
        if found and (_is_joiner(char) or _continues(found[-1][0], char)):
            font = found[-1][0]
        piece = char if font is not None else f" U+{ord(char):04X} "
        font = font or BUILT_IN
        if found and found[-1][0] == font:
            piece = found.pop()[1] + piece
        found.append((font, piece))
    return [(font, piece.replace("  ", " ")) for font, piece in found]


def _continues(font: str, char: str) -> bool:
    """Emoji fonts have digits too, which belong on keys: plain text does not go on in them."""
    return _covers(font, char) and (not char.isascii() or _covers(font, "a"))


def _is_joiner(char: str) -> bool:
    """Marks, joiners and variation selectors: they belong to the character before them."""
    return unicodedata.category(char) in ("Mn", "Mc", "Me", "Cf")


def _draw(text: str, size: int, colour: Colour) -> Image.Image:
    pieces = [_draw_run(font, piece, size, colour) for font, piece in runs(text)]
    edges = [0]
    for piece in pieces:
        edges.append(edges[-1] + piece.width)
    whole = Image.new("RGBA", (max(1, edges[-1]), round(1.5 * size)), (*colour, 0))
    for (left, _), piece in zip(pairwise(edges), pieces, strict=True):
        whole.paste(piece, (left, 0))
    return whole


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
def _font(file: str, size: int) -> tuple[Font, int]:
    """A font and the size it has: bitmap fonts come in few. Raises OSError when unreadable."""
    if file == BUILT_IN:
        return ImageFont.load_default(size), size
    try:
        return ImageFont.truetype(file, size), size
    except OSError:
        for strike in _STRIKES:
            try:
                return ImageFont.truetype(file, strike), strike
            except OSError:
                continue
        raise


@cache
def _font_file(char: str) -> str | None:
    """The first font that has a character."""
    return next((file for file in (BUILT_IN, *_font_files()) if _covers(file, char)), None)


@cache
def _font_files() -> tuple[str, ...]:
    """The machine's font files: colour emoji, then plain upright sans-serif ones, then others."""
    homes = {"HOME": str(Path.home())} | os.environ
    found = [
        str(path)
        for folder in _FOLDERS
        for path in Path(folder.format_map(_Known(homes))).rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]

    def rank(file: str) -> tuple[bool, int, str]:
        name = Path(file).stem.lower().replace("sansserif", "sans")
        return "emoji" not in name, sum(style in name for style in _STYLES), file

    plain = [file for file in found if not any(p in file.lower() for p in _PLACEHOLDERS)]
    return tuple(sorted(plain, key=rank))


class _Known(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "/nonexistent"


@lru_cache(maxsize=4096)
def _covers(file: str, char: str) -> bool:
    """Whether a font has a character: what it draws is not what it draws for one that none has."""
    if char.isspace():
        return True
    try:
        return _glyph(file, char) not in (_glyph(file, "\U0010fffe"), None)
    except OSError:  # A broken font, or one of a kind that can't be read.
        return False


def _glyph(file: str, char: str) -> bytes | None:
    font, size = _font(file, 24)
    image = Image.new("RGBA", (2 * size, 2 * size))
    ImageDraw.Draw(image).text(
        (size // 2, 1.5 * size), char, "white", font, anchor="ls", embedded_color=True
    )
    return image.tobytes() if image.getbbox() else None
