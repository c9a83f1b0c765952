"""Endless training crops: what a window of a scene looks like, and what covers each of its cells.

Knows how scenes are drawn (``localize.evaluation.scenes``); knows no model. Drawing a whole scene
to cut one window out of it would cost 40 ms, so crops are drawn directly at their own size with
OpenCV, on backgrounds cut out of a pool made by the scene generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from localize.evaluation import scenes

MOST = 7  # objects a crop
STRIDE = 8  # pixels a cell
POOL, POOL_SIDE = 500, 256
WINDOWS = ((1.0, 4, 7), (0.63, 3, 6), (0.4, 1, 5), (0.25, 1, 3))
"""Window sides (shares of the picture's short side), and the fewest and most objects in such a
crop."""


@dataclass(frozen=True)
class Batch:
    """``images`` uint8 (B, S, S, 3); ``objects`` int64 (B, MOST), concept numbers, -1 where there
    is none; ``cells`` float32 (B, MOST, S/8, S/8), share of each cell that each object covers;
    ``visible`` float32 (B, MOST), share of each object's silhouette that can be seen in the crop.
    """

    images: torch.Tensor
    objects: torch.Tensor
    cells: torch.Tensor
    visible: torch.Tensor


class Crops(IterableDataset[Batch]):
    """Batches of crops; batch ``i`` depends only on ``seed`` and ``i``, so a run can go on at any
    step."""

    def __init__(self, seed: int, size: int, batch: int, first: int = 0) -> None:
        super().__init__()
        self.seed, self.size, self.batch, self.first = seed, size, batch, first

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        painter = Painter(self.seed)
        step = self.first
        while True:
            rng = np.random.default_rng((self.seed, step))
            yield stack([painter.crop(rng, self.size) for _ in range(self.batch)])
            step += 1


Crop = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


def stack(crops: list[Crop]) -> Batch:
    images, objects, cells, visible = (
        torch.from_numpy(np.stack(part)) for part in zip(*crops, strict=True)
    )
    return Batch(images, objects, cells, visible)


class Painter:
    """Draws single crops. Holds the glyphs at three sizes and the pool of backgrounds."""

    def __init__(self, seed: int) -> None:
        self.glyphs = [
            [_levels(np.asarray(glyph.convert("RGBa"))) for glyph in concept.glyphs]
            for concept in scenes.concepts()
        ]
        rng = np.random.default_rng((seed, 2**32))
        self.pool = [
            np.asarray(scenes.make_background(rng, POOL_SIDE, POOL_SIDE)) for _ in range(POOL)
        ]

    def crop(self, rng: np.random.Generator, size: int) -> Crop:
        window, fewest, most = WINDOWS[int(rng.integers(len(WINDOWS)))]
        window *= rng.uniform(0.85, 1.2)
        image = self._background(rng, size, window)
        owner = np.zeros((size, size), np.uint8)
        count = 0 if rng.random() < 0.05 else int(rng.integers(fewest, most + 1))
        objects = np.full(MOST, -1, np.int64)
        areas = np.ones(MOST)
        for slot in range(count):
            concept = int(rng.integers(len(self.glyphs)))
            side = max(rng.uniform(*scenes.SIZES) / window, 0.13) * size
            objects[slot] = concept
            areas[slot] = self._paint(rng, image, owner, concept, side, slot + 1)
        return photometric(rng, image), objects, *_shares(owner, areas)

    def _background(self, rng: np.random.Generator, size: int, window: float) -> NDArray[np.uint8]:
        source = self.pool[int(rng.integers(POOL))]
        side = min(POOL_SIDE, max(48, round(POOL_SIDE * window * rng.uniform(0.5, 1.5))))
        x, y = (int(v) for v in rng.integers(0, POOL_SIDE - side + 1, 2))
        cut = source[y : y + side, x : x + side]
        cut = cut[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        return cv2.resize(np.ascontiguousarray(cut), (size, size), interpolation=how)

    def _paint(
        self,
        rng: np.random.Generator,
        image: NDArray[np.uint8],
        owner: NDArray[np.uint8],
        concept: int,
        side: float,
        number: int,
    ) -> float:
        """Draws one glyph into ``image`` and ``owner``, in place; returns its whole silhouette's
        area."""
        size = len(owner)
        kinds = self.glyphs[concept]
        levels, solid = kinds[int(rng.integers(len(kinds)))]
        spread = 180 if rng.random() < 0.2 else 30
        angle = np.deg2rad(rng.uniform(-spread, spread))
        level = next((one for one in reversed(levels) if len(one) >= side), levels[0])
        scale = side / len(level)
        margin = 0.25 * side
        centre = rng.uniform(-margin, size + margin, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
        if rng.random() < 0.5:
            turn[:, 0] *= -1
        shift = centre - turn @ np.full(2, (len(level) - 1) / 2)
        matrix = np.concatenate([turn, shift[:, None]], axis=1)
        drawn = cv2.warpAffine(level, matrix, (size, size), flags=cv2.INTER_LINEAR)
        alpha = drawn[..., 3:].astype(np.uint16)
        image[:] = drawn[..., :3] + (image * (255 - alpha) + 127) // 255
        owner[alpha[..., 0] > 127] = number
        return solid * side * side


def _levels(glyph: NDArray[np.uint8]) -> tuple[list[NDArray[np.uint8]], float]:
    """A premultiplied glyph at full, half and quarter size, and the solid share of its square."""
    levels = [glyph]
    for _ in range(2):
        half = len(levels[-1]) // 2
        levels.append(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA))
    return levels, float((glyph[..., 3] > 127).mean())


def _shares(
    owner: NDArray[np.uint8], areas: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The share of each cell that each object covers, and the share of each object that is seen."""
    cells = len(owner) // STRIDE
    blocks = owner.reshape(cells, STRIDE, cells, STRIDE).transpose(0, 2, 1, 3).reshape(cells**2, -1)
    index = blocks.astype(np.int64) + np.arange(cells**2)[:, None] * (MOST + 1)
    counts = np.bincount(index.ravel(), minlength=cells**2 * (MOST + 1)).reshape(-1, MOST + 1)
    pixels = counts[:, 1:].sum(0)
    shares = (counts[:, 1:] / STRIDE**2).T.reshape(MOST, cells, cells)
    return shares.astype(np.float32), np.minimum(pixels / areas, 1).astype(np.float32)


def photometric(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The changes of ``scenes.photometric``, as they look after a window was made smaller."""
    if rng.random() < 0.7:
        gain, offset = scenes.colour_change(rng)
        matrix = np.concatenate([gain, offset[:, None]], axis=1)
        image = cv2.transform(image, matrix)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.2, 0.8))
    if rng.random() < 0.3:
        reach = int(rng.integers(2, 10))
        noise = rng.integers(-reach, reach + 1, image.shape, dtype=np.int16)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        quality = int(rng.integers(50, 96))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return image
