"""The two published sliding-window recipes that this package is compared with, written anew.

Both embed square windows, compare them with a prompt by plain cosine, spread the cosines over a map
that is then stretched between its least and greatest value, and draw boxes at a fixed level of it.
They have the two verbs of `Localizer`, so that an evaluation can run all three alike, and embed
prompts as it does, so that only windows, scores and boxes differ.

Knows encoders and pictures; knows no metric. The recipes name no score, and their stretched maps
reach 1 whether or not the thing is there: a score or presence is a cosine c, put into [0, 1] as
(1 + c) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from localize.encoders.protocol import Encoder
from localize.images import ImageSource, Picture, read_image
from localize.prompts import PromptEmbedder, as_prompt
from localize.relevance import map_size
from localize.result import Box, Localization

Array = npt.NDArray[np.float32]
Corners = tuple[float, float, float, float]

BATCH = 32


@dataclass(frozen=True, eq=False)
class EncodedWindows:
    """A picture and the embeddings of its windows.

    embeddings: for each scale float32 (rows, columns, D), unit-norm.
    """

    picture: Picture
    embeddings: tuple[Array, ...]

    @property
    def num_crops(self) -> int:
        """How many crops went through the image encoder."""
        return sum(grid.shape[0] * grid.shape[1] for grid in self.embeddings)

    def cosines(self, prompts: Array) -> list[Array]:
        """For each scale (P, rows, columns), with unit-norm prompts (P, D)."""
        return [np.einsum("pd,yxd->pyx", prompts, grid) for grid in self.embeddings]


class PineconeChapter:
    """Pinecone's "Zero Shot Object Detection with OpenAI's CLIP": one scale, one box a prompt.

    https://www.pinecone.io/learn/series/image-search/zero-shot-object-detection-clip/

    The picture is cut into square patches, and a window of 6 x 6 of them slides by one patch. A
    patch scores the mean of the windows over it; the mean of all patches is subtracted and what
    falls below 0 is clipped, three times; the rest is stretched to [0, 1]; the box spans all
    patches above 0.5. The chapter's patches are 256 pixels of a photo of 13 by 20 of them. Here a
    patch is a tenth of the short side, so that any picture has enough of them: 40 windows at 4:3.
    As in the chapter, the count of windows over a patch starts at 1, which favours the middle of
    the picture, and what is left over at the right and at the bottom is not looked at.
    """

    PATCHES = 10  # along the short side
    WINDOW = 6  # patches
    THRESHOLD = 0.5

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._embed = PromptEmbedder(encoder)

    def encode(self, image: ImageSource) -> EncodedWindows:
        """Embed every window of 6 x 6 patches, row by row."""
        picture = read_image(image)
        patch, rows, columns = self._patches(picture)
        side = self.WINDOW * patch
        lefts = [patch * x for x in range(columns - self.WINDOW + 1)]
        tops = [patch * y for y in range(rows - self.WINDOW + 1)]
        windows = [(x, y, x + side, y + side) for y in tops for x in lefts]
        embeddings = _embed_windows(self._encoder, picture.pixels, windows)
        return EncodedWindows(picture, (embeddings.reshape(len(tops), len(lefts), -1),))

    def locate(self, encoded: EncodedWindows, prompts: Sequence[str]) -> Localization:
        """One box a prompt, present or not; presence is the best patch's mean cosine."""
        patch, rows, columns = self._patches(encoded.picture)
        vectors = self._embed([as_prompt(prompt).texts for prompt in prompts]).numpy()
        (cosines,) = encoded.cosines(vectors)
        means = np.stack([self._patch_means(each, rows, columns) for each in cosines])
        scores = means.copy()
        for _ in range(3):
            scores = np.clip(scores - scores.mean((1, 2), keepdims=True), 0, None)
        scores = _stretched(scores)
        presence = (1 + means.max((1, 2))) / 2
        boxes = []
        for prompt, score, each in zip(prompts, presence, scores, strict=True):
            ys, xs = np.nonzero(each > self.THRESHOLD)
            if len(xs):
                corners = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
                left, top, right, bottom = (float(patch * corner) for corner in corners)
                boxes.append(Box(prompt, float(score), (left, top, right, bottom)))
        return _localization(
            encoded.picture, prompts, presence, self._paint(scores, encoded.picture), boxes
        )

    def _patches(self, picture: Picture) -> tuple[float, int, int]:
        """Side of a patch in pixels, rows and columns of patches."""
        height, width = picture.pixels.shape[:2]
        patch = min(width, height) / self.PATCHES
        return patch, int(height / patch + 1e-6), int(width / patch + 1e-6)

    def _patch_means(self, cosines: Array, rows: int, columns: int) -> Array:
        """The score of each patch (rows, columns) from those of the windows."""
        total = np.zeros((rows, columns), np.float32)
        runs = np.ones((rows, columns), np.float32)
        for y, x in np.ndindex(*cosines.shape):
            covered = np.s_[y : y + self.WINDOW, x : x + self.WINDOW]
            total[covered] += cosines[y, x]
            runs[covered] += 1
        return total / runs

    def _paint(self, scores: Array, picture: Picture) -> Array:
        """Patches (P, rows, columns) as maps of the whole picture; 0 where no patch is."""
        height, width = picture.pixels.shape[:2]
        patch, rows, columns = self._patches(picture)
        map_width, map_height = map_size(width, height)
        ys = ((np.arange(map_height) + 0.5) * height / map_height / patch).astype(int)
        xs = ((np.arange(map_width) + 0.5) * width / map_width / patch).astype(int)
        padded = np.pad(scores, ((0, 0), (0, 1), (0, 1)))
        return padded[:, np.minimum(ys, rows)[:, None], np.minimum(xs, columns)]


class ClipDiy:
    """The windows of CLIP-DIY (Wysoczańska et al., WACV 2024, arXiv 2309.14289): three scales.

    The picture, squeezed to a square, is cut into windows of its whole, half and quarter side, each
    overlapping the next by half (256, 128 and 64 of 256 pixels in github.com/wysoczanska/clip-diy):
    59 crops. The cosines of each scale are enlarged bilinearly to the picture and averaged. The
    paper then multiplies by a saliency map of another network, which is left out here; instead of
    its segmentation, boxes go around the connected components above 0.7 of the map stretched to
    [0, 1], each scored by the mean cosine inside. Crops are cut from the picture at full
    resolution, not from one of 256 x 256 pixels.
    """

    FRACTIONS = (1.0, 0.5, 0.25)  # side of a window / side of the picture
    THRESHOLD = 0.7

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._embed = PromptEmbedder(encoder)

    def encode(self, image: ImageSource) -> EncodedWindows:
        """Embed 1, 3 x 3 and 7 x 7 windows."""
        picture = read_image(image)
        height, width = picture.pixels.shape[:2]
        grids = []
        for fraction in self.FRACTIONS:
            count = round(2 / fraction) - 1
            starts = [row * fraction / 2 for row in range(count)]
            windows = [
                (x * width, y * height, (x + fraction) * width, (y + fraction) * height)
                for y in starts
                for x in starts
            ]
            embeddings = _embed_windows(self._encoder, picture.pixels, windows)
            grids.append(embeddings.reshape(count, count, -1))
        return EncodedWindows(picture, tuple(grids))

    def locate(self, encoded: EncodedWindows, prompts: Sequence[str]) -> Localization:
        """At least one box a prompt, present or not; presence is the map's greatest cosine."""
        height, width = encoded.picture.pixels.shape[:2]
        size = map_size(width, height)
        vectors = self._embed([as_prompt(prompt).texts for prompt in prompts]).numpy()
        enlarged = [
            np.stack([cv2.resize(each, size, interpolation=cv2.INTER_LINEAR) for each in cosines])
            for cosines in encoded.cosines(vectors)
        ]
        means = np.asarray(sum(enlarged) / len(enlarged), np.float32)
        scores = _stretched(means)
        to_picture = (width / size[0], height / size[1])
        boxes = [
            Box(prompt, (1 + cosine) / 2, corners)
            for prompt, each, mean in zip(prompts, scores, means, strict=True)
            for corners, cosine in _components(each > self.THRESHOLD, mean, to_picture)
        ]
        return _localization(encoded.picture, prompts, (1 + means.max((1, 2))) / 2, scores, boxes)


RECIPES: dict[str, type[PineconeChapter] | type[ClipDiy]] = {
    "pinecone": PineconeChapter,
    "clip-diy": ClipDiy,
}


def _embed_windows(
    encoder: Encoder, pixels: npt.NDArray[np.uint8], windows: Sequence[Corners]
) -> Array:
    """Embed windows (xyxy in pixels), each resized by itself: float32 (N, D)."""
    picture = Image.fromarray(pixels)
    side = (encoder.image_size, encoder.image_size)
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    resample = filters[getattr(encoder, "interpolation", "bicubic")]
    device = getattr(encoder, "device", torch.device("cpu"))
    mean, std = (np.array(each, np.float32) for each in (encoder.mean, encoder.std))
    embeddings = []
    for start in range(0, len(windows), BATCH):
        crops = [picture.resize(side, resample, box=box) for box in windows[start : start + BATCH]]
        batch = (np.stack([np.asarray(crop, np.float32) for crop in crops]) / 255 - mean) / std
        tensor = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().to(device)
        with torch.inference_mode():
            embeddings.append(encoder.encode_crops(tensor)[0].float().cpu().numpy())
    return np.concatenate(embeddings)


def _stretched(maps: Array) -> Array:
    """Each map (P, h, w) from its least value at 0 to its greatest at 1; a flat one is 0."""
    low = maps.min((1, 2), keepdims=True)
    span = maps.max((1, 2), keepdims=True) - low
    return np.asarray((maps - low) / np.where(span > 0, span, 1), np.float32)


def _components(
    mask: npt.NDArray[np.bool_], values: Array, to_picture: tuple[float, float]
) -> list[tuple[Corners, float]]:
    """Boxes, in pixels of the picture, of the components of a mask, and the mean value in each."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    found = []
    for component in range(1, count):  # 0 is the background
        left, top, width, height = stats[component, :4].tolist()
        across, down = to_picture
        corners = (left * across, top * down, (left + width) * across, (top + height) * down)
        found.append((corners, float(values[labels == component].mean())))
    return found


def _localization(
    picture: Picture, prompts: Sequence[str], presence: Array, maps: Array, boxes: list[Box]
) -> Localization:
    return Localization(
        pixels=picture.pixels,
        file=picture.file,
        model="",
        prompts=tuple(prompts),
        presence=np.asarray(presence, np.float32),
        maps=maps,
        boxes=sorted(boxes, key=lambda box: -box.score),
    )
