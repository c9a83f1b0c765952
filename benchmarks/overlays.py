"""How plainly overlays tell what is there from what is not, and other ways to draw them beside.

    python benchmarks/overlays.py --scenes 100
    python benchmarks/overlays.py --data photos --encoder my_encoder:Tower
    python benchmarks/overlays.py --scenes 3 --pictures docs/images

For each picture the prompt with the highest presence of those that are in it, from .5 on, is drawn
beside three that are not in it. The figure is the least distance (CIE76) of the two overlays'
colours at the peak of the first one's map, boxes left out, as eyes of each kind see them.

--pictures writes ways.webp, where each way to draw is seen beside the others, and heatmap.webp.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import skimage.data
from material import add_material, material
from PIL import Image

from localize import Localization, Localizer, render
from localize.evaluation.samples import Sample
from localize.evaluation.scenes import concepts, place
from localize.render import lettering
from localize.render.colours import INK, Pixels, heat_over

Floats = npt.NDArray[np.float32]

BLIND = {
    "green-blind": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "red-blind": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "blue-blind": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""What the colour-blind see, on linear RGB: Machado, Oliveira and Fernandes 2009, "A
Physiologically-based Model for Simulation of Color Vision Deficiency", table 1, severity 1."""

SIGHTS = ("ordinary", *BLIND, "grey")

STICKERS = (
    # CC0, with scikit-image: "Chelsea" by Stéfan van der Walt, "coffee" by Rachel Michetti.
    (skimage.data.cat, (("fish", 190, 10, 40, 420), ("butterfly", 170, -15, 765, 45))),
    (skimage.data.coffee, (("butterfly", 180, -20, 45, 40), ("soccer ball", 140, 0, 90, 450))),
)
"""Photos, and what is stuck on them: name, longer side, angle, left and top, on 960 pixels."""


def seen(pixels: Pixels, sight: str) -> Pixels:
    """RGB (..., 3) as eyes of this kind see it."""
    if sight == "ordinary":
        return pixels
    if sight == "grey":
        light = pixels @ np.array([0.299, 0.587, 0.114])
        return np.repeat(light[..., None], 3, axis=-1).round().astype(np.uint8)
    part = pixels / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(BLIND[sight]).T, 0, 1)
    part = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * part).round().astype(np.uint8)


def distance(one: Pixels, other: Pixels, sight: str) -> float:
    """CIE76 between two colours (3,)."""
    pair = seen(np.array([[one, other]]), sight).astype(np.float32) / 255
    lab = cv2.cvtColor(pair, cv2.COLOR_RGB2LAB)[0]
    return float(np.linalg.norm(lab[0] - lab[1]))


def least_distances(
    result: Localization, there: Sequence[str], absent: Sequence[str]
) -> dict[str, float] | None:
    """By sight; None where none of the prompts that are there has a presence of .5."""
    presence = dict(zip(result.prompts, result.presence.tolist(), strict=True))
    best = max(there, key=lambda name: presence[name])
    if presence[best] < 0.5:
        return None
    shown, *others = (
        np.asarray(render.overlay(result.pixels, _map(result, name), xyxy=[], scores=[]))
        for name in (best, *absent)
    )
    width = shown.shape[1]  # Below the photo is a legend.
    height = round(width * result.height / result.width)
    enlarged = cv2.resize(_map(result, best), (width, height), interpolation=cv2.INTER_LINEAR)
    peak = np.unravel_index(np.argmax(enlarged), enlarged.shape)
    return {
        sight: min(distance(shown[peak], other[peak], sight) for other in others)
        for sight in SIGHTS
    }


def _map(result: Localization, name: str) -> Floats:
    return result.maps[result.prompts.index(name)]


def measure(localizer: Localizer, samples: Sequence[Sample], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = []
    for sample in samples:
        present = sample.truth.present()
        there = [p for p, here in zip(sample.truth.prompts, present, strict=True) if here]
        absent = [p for p, here in zip(sample.truth.prompts, present, strict=True) if not here]
        absent = rng.permutation(absent)[:3].tolist()
        if not there or not absent:
            continue
        rows.append(least_distances(localizer.locate(sample.image, there + absent), there, absent))
    counted = [row for row in rows if row is not None]
    print(f"{len(counted)} of {len(rows)} pictures have something with a presence of .5")
    print("| sight | 30 or more in | least | median |\n|---|---|---|---|")
    for sight in SIGHTS:
        values = np.array([row[sight] for row in counted])
        share, least, median = (values >= 30).mean(), values.min(), np.median(values)
        print(f"| {sight} | {share:.2f} | {least:.0f} | {median:.0f} |")


def plasma_on_the_photo(photo: Pixels, relevance: Floats) -> Pixels:
    opacity = 0.75 * relevance[..., None] ** 0.75
    return _blend(photo, _colour_map(relevance, cv2.COLORMAP_PLASMA), opacity)


def inferno_on_dark_grey(photo: Pixels, relevance: Floats) -> Pixels:
    ground = np.repeat(20 + 0.4 * (photo @ [[0.299], [0.587], [0.114]]), 3, axis=-1)
    opacity = 0.85 * relevance[..., None] ** 0.7
    return _blend(ground, _colour_map(relevance, cv2.COLORMAP_INFERNO), opacity)


def dark_on_light_grey(photo: Pixels, relevance: Floats) -> Pixels:
    ground = np.repeat(140 + 0.45 * (photo @ [[0.299], [0.587], [0.114]]), 3, axis=-1)
    stops = np.array([(255, 220, 120), (253, 160, 60), (227, 50, 50), (150, 10, 70), (80, 0, 70)])
    heat = [np.interp(relevance, np.linspace(0, 1, 5), channel) for channel in stops.T]
    return _blend(ground, np.stack(heat, axis=-1), 0.85 * relevance[..., None] ** 0.7)


WAYS: tuple[Callable[[Pixels, Floats], Pixels], ...] = (
    plasma_on_the_photo,
    inferno_on_dark_grey,
    dark_on_light_grey,
    heat_over,
)


def _colour_map(relevance: Floats, name: int) -> Pixels:
    levels = (255 * relevance).round().astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, name)[..., ::-1], np.uint8)


def _blend(ground: npt.ArrayLike, heat: npt.ArrayLike, opacity: Floats) -> Pixels:
    mixed = np.asarray(ground) * (1 - opacity) + np.asarray(heat) * opacity
    return np.asarray(mixed.round(), np.uint8)


def with_stickers() -> list[tuple[Pixels, list[str]]]:
    """Photos with glyphs stuck on them, 960 pixels wide, and the glyphs' names."""
    glyphs = {concept.name: concept.glyphs[0] for concept in concepts()}
    pictures = []
    for photo, stickers in STICKERS:
        image = Image.fromarray(photo())
        image = image.resize((960, round(image.height * 960 / image.width)))
        for name, side, angle, x, y in stickers:
            sticker = place(glyphs[name], side, angle, mirror=False)
            image.paste(sticker, (x, y), sticker)
        pictures.append((np.asarray(image), [name for name, *_ in stickers]))
    return pictures


def side_by_side(
    rows: Sequence[Sequence[npt.ArrayLike]], width: int, captions: Sequence[str] = ()
) -> Image.Image:
    """Pictures in rows, each picture that wide, under a caption for each column."""
    gap = 6
    strips = []
    if captions:
        strip = Image.new("RGB", (len(captions) * (width + gap) - gap, 24), "white")
        for number, caption in enumerate(captions):
            words = lettering.line(caption, 16, INK, max_width=width)
            strip.paste(words, (number * (width + gap), 0), words)
        strips.append(strip)
    for row in rows:
        images = [Image.fromarray(np.asarray(pixels, np.uint8)) for pixels in row]
        images = [
            image.resize((width, round(image.height * width / image.width)), Image.Resampling.BOX)
            for image in images
        ]
        height = max(image.height for image in images)
        strip = Image.new("RGB", (len(images) * (width + gap) - gap, height), "white")
        for number, image in enumerate(images):
            strip.paste(image, (number * (width + gap), 0))
        strips.append(strip)
    heights = [strip.height + gap for strip in strips]
    whole = Image.new("RGB", (strips[0].width, sum(heights) - gap), "white")
    for strip, top in zip(strips, np.cumsum([0, *heights]).tolist(), strict=False):
        whole.paste(strip, (0, top))
    return whole


def draw(localizer: Localizer, samples: Sequence[Sample], folder: Path) -> None:
    asked = with_stickers()
    asked += [(np.asarray(each.image), list(each.truth.labels)) for each in samples]
    rows = []
    for pixels, names in asked:
        result = localizer.locate(pixels, names)
        best = int(result.presence.argmax())
        size = (result.width, result.height)
        relevance = cv2.resize(result.maps[best], size, interpolation=cv2.INTER_LINEAR)
        ways = [way(pixels, np.asarray(relevance, np.float32)) for way in WAYS]
        rows.append([pixels, *ways, *(seen(ways[-1], sight) for sight in (*BLIND, "grey"))])
    captions = ["picture", *(way.__name__.replace("_", " ") for way in WAYS[:-1]), "chosen"]
    captions += [f"chosen, {sight}" for sight in (*BLIND, "in grey")]
    side_by_side(rows, 230, captions).save(folder / "ways.webp", quality=85)

    pixels, names = asked[0]
    result = localizer.locate(pixels, [*names, "guitar"])
    pictures = [result.boxes_overlay(), result.overlay(names[0]), result.overlay("guitar")]
    side_by_side([pictures], 640).save(folder / "heatmap.webp", quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_material(parser)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write pictures there")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    localizer = Localizer(encoder)
    if parsed.pictures:
        draw(localizer, samples, parsed.pictures)
    else:
        measure(localizer, samples, parsed.seed)


if __name__ == "__main__":
    main()
