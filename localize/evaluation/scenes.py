"""Pictures with exact boxes, drawn from a seed: emoji glyphs on made-up backgrounds.

Knows the glyph atlas beside it (Noto Color Emoji, SIL Open Font License 1.1; see ``glyphs/``) and
how to draw. Must not know models, prompts, the command line, or how an answer is scored.

Everything random comes from one ``numpy`` PCG64 generator through integers and uniform numbers, and
everything is drawn by Pillow and numpy in 8-bit or integer arithmetic where they offer it, so that
a seed gives the same picture on every machine.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

GLYPHS = Path(__file__).parent / "glyphs"
DEFAULT_SIZE = (640, 480)
SIZES = (0.1, 0.5)
"""Smallest and largest longer side of an object, as a share of the picture's short side."""
VISIBLE = 0.6
"""Share of an object that later objects leave uncovered, at least."""

Xyxy = tuple[int, int, int, int]


@dataclass(frozen=True)
class Concept:
    """A thing that has a name: the name, other words for it, and its glyphs (RGBA images)."""

    name: str
    synonyms: tuple[str, ...]
    glyphs: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Scene:
    """A picture and the truth about it.

    ``image``: uint8 (height, width, 3), RGB. ``objects``: name and box of each object, back to
    front; the box is ``xyxy`` in pixels, tight around the object's silhouette as if nothing covered
    it, right and bottom exclusive. ``absent``: names that are not in the picture, as many as there
    are names in it. ``shown``: int16 (height, width), which of the objects each pixel shows, -1
    where it shows the background.
    """

    image: NDArray[np.uint8]
    objects: tuple[tuple[str, Xyxy], ...]
    absent: tuple[str, ...]
    shown: NDArray[np.int16]

    @property
    def names(self) -> tuple[str, ...]:
        """The different names in the picture, in the order of ``objects``."""
        return tuple(dict.fromkeys(name for name, _ in self.objects))


@cache
def concepts() -> tuple[Concept, ...]:
    """All things that scenes can show, in the order of the atlas."""
    table = json.loads((GLYPHS / "names.json").read_text(encoding="utf-8"))
    cell, columns = table["cell"], table["columns"]
    with Image.open(GLYPHS / "atlas.webp") as file:
        atlas = file.convert("RGBA")

    def glyph(index: int) -> Image.Image:
        left, top = index % columns * cell, index // columns * cell
        picture: Image.Image = atlas.crop((left, top, left + cell, top + cell))
        return picture

    return tuple(
        Concept(row["name"], tuple(row["synonyms"]), tuple(glyph(i) for i in row["glyphs"]))
        for row in table["concepts"]
    )


def make_scene(seed: int, size: tuple[int, int] | None = None) -> Scene:
    """Draw the scene of a seed: 2 to 7 objects, each at least 60 % visible, on a random background.

    ``size`` is (width, height) in pixels, both at least 64. Without it half of the seeds give 640 x
    480 and the others anything from 320 to 960 pixels a side. Raises ValueError if ``size`` is too
    small.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    width, height = size or _random_size(rng)
    if min(width, height) < 64:
        raise ValueError(f"size must be at least 64 x 64 pixels, not {width} x {height}")
    canvas = make_background(rng, width, height)
    known = concepts()
    owner = np.zeros((height, width), np.int16)  # 1-based number of the object that covers a pixel
    areas: list[int] = []
    objects: list[tuple[str, Xyxy]] = []
    chosen: list[int] = []
    for _ in range(int(rng.integers(2, 8))):
        repeat = bool(chosen) and rng.random() < 0.1
        number = int(rng.choice(chosen)) if repeat else int(rng.integers(len(known)))
        for _ in range(20):  # tries to find a place
            share = rng.uniform(*SIZES)
            glyph = _random_glyph(rng, known[number], max(6, round(share * min(width, height))))
            x = int(rng.integers(0, width - glyph.width + 1))
            y = int(rng.integers(0, height - glyph.height + 1))
            if _fits(owner, areas, glyph, x, y):
                canvas.paste(glyph, (x, y), glyph)
                areas.append(_claim(owner, len(areas) + 1, glyph, x, y))
                objects.append((known[number].name, _silhouette(glyph, x, y)))
                chosen.append(number)
                break
    others = [i for i in rng.permutation(len(known)) if i not in chosen]
    absent = tuple(known[i].name for i in others[: len(set(chosen))])
    return Scene(np.array(photometric(rng, canvas)), tuple(objects), absent, owner - 1)


def _random_size(rng: np.random.Generator) -> tuple[int, int]:
    other = (int(rng.integers(320, 961)), int(rng.integers(320, 961)))
    return DEFAULT_SIZE if rng.random() < 0.5 else other


def place(glyph: Image.Image, side: int, angle: float, mirror: bool) -> Image.Image:
    """A glyph turned by ``angle`` degrees and resized so that its silhouette's longer side is
    ``side``."""
    if mirror:
        glyph = glyph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Premultiplied, or the colour of transparent pixels would bleed into the edges.
    turned = glyph.convert("RGBa").rotate(angle, Image.Resampling.BILINEAR, expand=True)
    turned = turned.crop(_solid(turned).getbbox())
    scale = side / max(turned.size)
    size = (max(1, round(turned.width * scale)), max(1, round(turned.height * scale)))
    return turned.resize(
        size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC
    ).convert("RGBA")


def _solid(glyph: Image.Image) -> Image.Image:
    """The silhouette: 255 where the glyph covers more than half of what is behind it."""
    return glyph.getchannel("A" if glyph.mode == "RGBA" else "a").point(lambda a: 255 * (a > 127))


def _random_glyph(rng: np.random.Generator, concept: Concept, side: int) -> Image.Image:
    glyph = concept.glyphs[int(rng.integers(len(concept.glyphs)))]
    # Mostly a little tilted, as things stand in pictures; now and then any way up.
    spread = 180 if rng.random() < 0.2 else 30
    angle = float(rng.integers(-spread, spread + 1))
    return place(glyph, side, angle, mirror=bool(rng.random() < 0.5))


def _mask(glyph: Image.Image) -> NDArray[np.bool_]:
    return np.asarray(_solid(glyph)) > 0


def _silhouette(glyph: Image.Image, x: int, y: int) -> Xyxy:
    left, top, right, bottom = _solid(glyph).getbbox() or (0, 0, *glyph.size)
    return x + left, y + top, x + right, y + bottom


def _fits(owner: NDArray[np.int16], areas: list[int], glyph: Image.Image, x: int, y: int) -> bool:
    """Whether every object that lies there already stays visible enough under the glyph."""
    after = owner.copy()
    _claim(after, len(areas) + 1, glyph, x, y)
    seen = np.bincount(after.ravel(), minlength=len(areas) + 2)
    return all(seen[i + 1] >= VISIBLE * area for i, area in enumerate(areas))


def _claim(owner: NDArray[np.int16], number: int, glyph: Image.Image, x: int, y: int) -> int:
    """Enter a glyph's silhouette into the map of owners, in place; returns its area in pixels."""
    mask = _mask(glyph)
    owner[y : y + glyph.height, x : x + glyph.width][mask] = number
    return int(mask.sum())


# --- backgrounds


def make_background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A random background: flat, gradient or texture, half of the time with clutter on it (RGB)."""
    kinds = (_flat, _gradient, _gradient, _noise, _noise, _stripes, _checks, _blobs)
    canvas = kinds[int(rng.integers(len(kinds)))](rng, width, height)
    if rng.random() < 0.5:
        _clutter(rng, canvas)
    return canvas


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any colour, pale ones as often as strong ones."""
    colour = rng.integers(0, 256, 3)
    pale = int(rng.integers(0, 101))
    towards = int(rng.integers(0, 256))
    red, green, blue = ((100 - pale) * colour + pale * towards) // 100
    return int(red), int(green), int(blue)


def _flat(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), _colour(rng))


def _gradient(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    corners = np.array([[_colour(rng), _colour(rng)], [_colour(rng), _colour(rng)]], np.uint8)
    if rng.random() < 0.5:  # the same from left to right
        corners[:, 1] = corners[:, 0]
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)


def _noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Octaves of value noise between two colours, as of clouds, grass or sand."""
    field = np.zeros((height, width), np.int32)
    cells, weight, total = int(rng.integers(2, 9)), 8, 0
    fade = int(rng.integers(1, 3))
    while weight and cells < min(width, height):
        columns = max(2, cells * width // height)
        grid = rng.integers(0, 256, (max(2, cells), columns), dtype=np.uint8)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        field += weight * np.asarray(layer, np.int32)
        total += weight
        cells, weight = cells * 3, weight >> fade
    share = (field // total)[..., None]
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    return Image.fromarray(((share * first + (255 - share) * second) // 255).astype(np.uint8))


def _pattern(inside: NDArray[np.bool_], rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(np.where(inside[..., None], _colour(rng), _colour(rng)).astype(np.uint8))


def _stripes(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    across, along = (int(v) for v in rng.integers(-8, 9, 2))
    period = int(rng.integers(6, max(8, min(width, height) // 5))) * max(
        1, abs(across) + abs(along)
    )
    thick = period * int(rng.integers(20, 81)) // 100
    return _pattern((x * across + y * along) % period < thick, rng)


def _checks(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    side = int(rng.integers(6, max(8, min(width, height) // 5)))
    slant = int(rng.integers(-1, 2))
    return _pattern(((x + slant * y) // side + (y - slant * x) // side) % 2 == 0, rng)


def _blobs(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    canvas = _gradient(rng, width, height)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(5, 40))):
        draw.ellipse(_random_box(rng, width, height, 0.4), fill=_colour(rng))
    return canvas


def _random_box(rng: np.random.Generator, width: int, height: int, largest: float) -> Xyxy:
    limit = max(4, int(largest * min(width, height)))
    w, h = (int(v) for v in rng.integers(3, limit, 2))
    x, y = int(rng.integers(-w // 2, width - w // 2)), int(rng.integers(-h // 2, height - h // 2))
    return x, y, x + w, y + h


def _clutter(rng: np.random.Generator, canvas: Image.Image) -> None:
    """Abstract shapes and unrecognisable pieces of glyphs, drawn into the picture."""
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(3, 15))):
        left, top, right, bottom = _random_box(rng, *canvas.size, 0.3)
        corners = [
            (int(rng.integers(left, right)), int(rng.integers(top, bottom)))
            for _ in range(int(rng.integers(3, 6)))
        ]
        kind = int(rng.integers(5))
        if kind == 0:
            draw.rectangle((left, top, right, bottom), fill=_colour(rng))
        elif kind == 1:
            draw.polygon(corners, fill=_colour(rng))
        elif kind == 2:
            draw.line(corners, fill=_colour(rng), width=int(rng.integers(1, 9)))
        elif kind == 3:
            draw.arc((left, top, right, bottom), 0, int(rng.integers(90, 361)), _colour(rng), 3)
        else:
            piece = _piece(rng, max(right - left, 6))
            canvas.paste(piece, (left, top), piece)


def _piece(rng: np.random.Generator, side: int) -> Image.Image:
    """A scrap of about a tenth of some glyph: nobody could name the thing from it."""
    known = concepts()
    glyph = known[int(rng.integers(len(known)))].glyphs[0]
    scrap = glyph.width // 3
    x, y = (int(v) for v in rng.integers(scrap // 2, glyph.width - scrap - scrap // 2 + 1, 2))
    cut = glyph.crop((x, y, x + scrap, y + scrap))
    shape = Image.new("L", cut.size)
    corners = [(int(a), int(b)) for a, b in rng.integers(0, scrap, (6, 2))]
    ImageDraw.Draw(shape).polygon(corners, fill=255)
    cut.putalpha(Image.fromarray(np.minimum(np.asarray(shape), np.asarray(cut.getchannel("A")))))
    turned = cut.rotate(float(rng.integers(0, 360)), expand=True)
    return turned.resize((side, side), Image.Resampling.BILINEAR)


# --- photometry


def photometric(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """What cameras and files do to a picture: exposure, contrast, tint, blur, noise and JPEG."""
    if rng.random() < 0.7:
        gain, offset = colour_change(rng)
        pixels = np.asarray(image, np.float64) @ gain.T + offset
        image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))
    if rng.random() < 0.3:
        reach = int(rng.integers(2, 13))
        shape = (image.height, image.width, 3)
        noise = rng.integers(-reach, reach + 1, shape) + rng.integers(-reach, reach + 1, shape)
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(40, 96)))
        image = Image.open(file).convert("RGB")
    return image


def colour_change(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A random change of exposure, contrast, saturation and hue: ``rgb @ gain.T + offset``.

    ``gain`` (3, 3) turns colours about the grey axis by up to 15 degrees (Rodrigues' rotation),
    moves them from or towards grey, and scales them; ``offset`` (3,) keeps mid-grey in place and
    then brightens.
    """
    angle = math.radians(rng.uniform(-15, 15))
    cos, sin = math.cos(angle), math.sin(angle)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    grey = np.full((3, 3), 1 / 3)
    hue = cos * np.eye(3) + sin * cross + (1 - cos) * grey
    saturation = rng.uniform(0.7, 1.3)
    contrast = rng.uniform(0.7, 1.25)
    gain = contrast * (saturation * hue + (1 - saturation) * grey)
    offset = 128 * (1 - contrast) + rng.uniform(-30, 30) + np.zeros(3)
    return gain, offset


# --- the demo


def demo_scene() -> Scene:
    """The classic example, 960 x 640: a cat and a butterfly in a garden, no guitar."""
    width, height = 960, 640
    canvas = _meadow(width, height)
    known = {concept.name: concept for concept in concepts()}
    objects: list[tuple[str, Xyxy]] = []
    owner = np.zeros((height, width), np.int16)
    for name, which, side, angle, mirror, x, y in (
        ("tree", 0, 300, 0, False, 40, 130),
        ("house", 0, 190, 0, False, 690, 190),
        ("sunflower", 0, 150, 5, False, 350, 330),
        ("cat", 0, 260, 0, True, 480, 330),
        ("butterfly", 0, 120, 20, False, 420, 90),
        ("soccer ball", 0, 90, 15, False, 800, 500),
        ("mushroom", 0, 80, -8, False, 240, 520),
    ):
        glyph = place(known[name].glyphs[which], side, angle, mirror)
        canvas.paste(glyph, (x, y), glyph)
        objects.append((name, _silhouette(glyph, x, y)))
        _claim(owner, len(objects), glyph, x, y)
    return Scene(np.array(canvas), tuple(objects), ("guitar",), owner - 1)


def _meadow(width: int, height: int) -> Image.Image:
    """Sky and two hills."""
    ends = np.array([[(120, 190, 240)], [(225, 242, 250)]], np.uint8)
    canvas = Image.fromarray(ends).resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((-300, 330, 760, 1100), fill=(134, 190, 110))
    draw.ellipse((250, 360, 1400, 1200), fill=(112, 172, 96))
    return canvas
