"""The image pyramid on the model's device, and the normalised crops that are views of it.

Knows pixels, windows and torch; must not know prompts or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from localize.windows import Grid

BAND_PIXELS = 1 << 25
"""A level of more pixels than this is made one row of windows at a time, to bound its memory."""


def crops_of(
    pixels: npt.NDArray[np.uint8],
    grids: Sequence[Grid],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    interpolation: str,
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Every window of every grid, in their order, as a float32 crop (3, S, S) on the device.

    pixels: uint8 (H, W, 3), RGB.
    mean, std: of the RGB channels in [0, 1], that crops are normalised with.
    interpolation: "bicubic" or "bilinear"; always with antialiasing, as Pillow's.

    The picture is resized once a grid and normalised once; each crop is a view of that level.
    What a window covers beyond the picture is 0, the mean colour.
    """
    device = torch.empty(0, device=device).device  # "cuda" alone may be another GPU next time
    offset, scale = (_of_channels(tuple(map(float, each)), device) for each in (mean, std))
    for grid, source in zip(grids, _sources(pixels, grids, device), strict=True):
        for corners, level in _bands(source, grid, interpolation):
            normal = (level.to(device) - offset) / scale
            beyond = (0, max(0, grid.side - level.shape[2]), 0, max(0, grid.side - level.shape[1]))
            normal = F.pad(normal, beyond) if any(beyond) else normal
            for x, y in corners:
                yield normal[:, y : y + grid.side, x : x + grid.side]


@lru_cache(maxsize=8)
def _of_channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Values of the RGB channels in [0, 1] as (3, 1, 1) in [0, 255]. Kept, as a copy to a GPU waits
    for all that it is at."""
    return 255 * torch.tensor(values, device=device)[:, None, None]


def batches(crops: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """Stack crops into batches (B, 3, S, S) of `size`, the last one with what is left."""
    crops = iter(crops)
    while batch := list(islice(crops, size)):
        yield torch.stack(batch)


def _sources(
    pixels: npt.NDArray[np.uint8], grids: Sequence[Grid], device: torch.device
) -> list[torch.Tensor]:
    """What each grid's level is resized from: uint8 (h, w, 3), four times its size at most.

    From the finest grid to the coarsest each picture is shrunk from the last, so that a large one
    is read in full but once. They lie where they are resized: on the GPU under CUDA, otherwise on
    the CPU, as not every backend has antialiased resizing.
    """
    finest_first = sorted(range(len(grids)), key=lambda index: -grids[index].level[0])
    sources: dict[int, torch.Tensor] = {}
    tensor = _uploaded(pixels, device)
    for index in finest_first:
        shrunk = _shrunk(pixels, grids[index].level)
        if shrunk is not pixels:
            pixels, tensor = shrunk, _uploaded(shrunk, device)
        sources[index] = tensor
    return [sources[index] for index in range(len(grids))]


def _shrunk(pixels: npt.NDArray[np.uint8], level: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The picture at twice a level's size where it is more than four times as large."""
    height, width = pixels.shape[:2]
    if width <= 4 * level[0] or height <= 4 * level[1]:
        return pixels
    size = (2 * level[0], 2 * level[1])
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _uploaded(pixels: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    picture = torch.from_numpy(np.ascontiguousarray(pixels))
    if device.type == "cuda":
        return picture.pin_memory().to(device, non_blocking=True)
    return picture


def _bands(
    source: torch.Tensor, grid: Grid, interpolation: str
) -> Iterator[tuple[Sequence[tuple[int, int]], torch.Tensor]]:
    """The level of a grid, as ((left, top) of windows in a band, the band (3, h, w) in [0, 255]).

    One band holds all windows, unless the level is huge: then each row of windows has a band of its
    own, cut out of the source at whole pixels.
    """
    width, height = grid.level
    if width * height <= BAND_PIXELS:
        yield grid.corners, _resized(source, (height, width), interpolation)
        return
    to_source = source.shape[0] / height
    for y, row in groupby(grid.corners, itemgetter(1)):
        band = source[round(y * to_source) : round((y + grid.side) * to_source)]
        yield [(x, 0) for x, _ in row], _resized(band, (grid.side, width), interpolation)


def _resized(source: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """A picture uint8 (H, W, 3) as (3, h, w) in [0, 255].

    On the CPU as bytes, rounded as Pillow rounds: several times as fast as in float32 there, and
    not to be had elsewhere.
    """
    picture = source.permute(2, 0, 1)[None]
    if source.device.type != "cpu":
        picture = picture.float()
    if tuple(picture.shape[-2:]) != size:
        picture = F.interpolate(picture, size, mode=interpolation, antialias=True).clamp(0, 255)
    return picture[0]
