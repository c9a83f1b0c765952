"""Maps that respect the edges of the picture: relevance shared within and between superpixels.

Knows pixels, maps, scikit-image's segmentation and SciPy's sparse matrices; must not know models,
prompts or boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array
from skimage.segmentation import felzenszwalb

COARSENESS = ((20, 10), (50, 20), (200, 40))
"""Of each segmentation the scale k, above which superpixels are larger, and their least size in
pixels of the map. Where several segmentations agree there is an edge: in a trial on 49 photos the
average of three was more accurate than the middle one alone, and five were no better than three."""

SMOOTHING = 0.8  # standard deviation in pixels, as Felzenszwalb and Huttenlocher set it

SHARE = 0.5
"""How much of a superpixel's relevance is its neighbours'. More helps photos, less helps scenes,
whose things have hard edges and loud parts (docs/ablation.md)."""

LIKENESS = 0.03
"""The squared distance of two neighbours' colours, as a part of the mean one, at which they share
1/e as much as neighbours of one colour."""

OWN = 0.1
"""How many of its own pixels, as a part of them, a superpixel counts among its neighbours', so that
what looks like nothing around it keeps its relevance."""

STEPS = 10  # what later ones would change is below SHARE ** STEPS, a thousandth of the range


@dataclass(frozen=True, eq=False)
class Superpixels:
    """One segmentation of a picture at the size of its maps.

    segments: int (h, w), the superpixel of each pixel, numbered from 0 without gaps.
    sharing: float64 (n, n), sparse: what part of a superpixel's neighbourhood each other one is.
        Rows sum to one; alike, large and near ones weigh most.
    """

    segments: npt.NDArray[np.intp]
    sharing: csr_array

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        sharing = self.sharing
        arrays = (self.segments, sharing.data, sharing.indices, sharing.indptr)
        return sum(array.nbytes for array in arrays)


def superpixels(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> tuple[Superpixels, ...]:
    """Segmentations of a picture, one for each of COARSENESS, as maps can follow them.

    pixels: the picture, uint8 (H, W, 3). size: (width, height) of its maps; it is shrunk to that.
    They are the superpixels of Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image
    Segmentation" (IJCV 2004).
    """
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).transpose(2, 0, 1).astype(np.float32)
    found = []
    for scale, least in COARSENESS:
        segments = felzenszwalb(small, scale=scale, sigma=SMOOTHING, min_size=least)
        found.append(Superpixels(segments, sharing(segments, segment_means(colours, segments))))
    return tuple(found)


def follow_edges(
    maps: npt.NDArray[np.float32], segmentations: Sequence[Superpixels]
) -> npt.NDArray[np.float32]:
    """Maps that are even within superpixels and alike where neighbours look alike.

    Each superpixel starts from its mean relevance r, and then takes SHARE of its value from its
    neighbours and the rest from r again, until that settles: x = SHARE * sharing @ x +
    (1 - SHARE) * r, the random walk with restarts of Zhou et al., "Learning with Local and Global
    Consistency" (NIPS 2003), and of saliency by manifold ranking (Yang et al., CVPR 2013). So one
    thing of several superpixels is found as one, and relevance does not cross strong edges. The
    result is the mean over the segmentations.

    maps: float32 (P, h, w). segmentations: of the same h x w; see `superpixels`.
    Returns float32 (P, h, w), in the range of the maps.
    """
    averaged = np.zeros(maps.shape, np.float32)
    for each in segmentations:
        means = segment_means(maps, each.segments).T
        shared = means
        for _ in range(STEPS):
            shared = SHARE * (each.sharing @ shared) + (1 - SHARE) * means
        averaged += shared.T.astype(np.float32)[:, each.segments]
    return averaged / np.float32(len(segmentations))


def segment_means(
    maps: npt.NDArray[np.float32], segments: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """The mean of each of n segments in maps (P, h, w): float32 (P, n).

    segments: (h, w), the segment of each pixel, numbered from 0 without gaps.
    """
    flat = segments.ravel()
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat)
    starts = np.cumsum(counts) - counts
    # Segments are runs of the sorted pixels, so all maps are summed in one call.
    sums = np.add.reduceat(maps.reshape(len(maps), -1)[:, order], starts, axis=1)
    return (sums / counts).astype(np.float32)


def sharing(segments: npt.NDArray[np.intp], colours: npt.NDArray[np.float32]) -> csr_array:
    """What part each of n segments is of each other's neighbourhood, sparse (n, n), rows of sum 1.

    segments: (h, w). colours: (channels, n), the mean colour of each segment. The neighbours of a
    segment are those that touch it and those that touch these. One of c pixels whose colour is at
    distance d weighs c * exp(-d^2 / (LIKENESS * mean of d^2)); distances are measured against the
    mean one of the picture, as Boykov and Jolly's graph cuts are in GrabCut (Rother et al.,
    SIGGRAPH 2004), so that hazy pictures have edges too.
    """
    sizes = np.bincount(segments.ravel())
    rows, columns = _neighbours(segments, len(sizes))
    distances = np.square(colours[:, rows] - colours[:, columns]).sum(0, dtype=np.float64)
    spread = LIKENESS * distances.mean() if distances.any() else 1.0
    weights = sizes[columns] * np.exp(-distances / spread)
    itself = np.arange(len(sizes))
    weights = np.concatenate([weights, OWN * sizes])
    places = np.concatenate([rows, itself]), np.concatenate([columns, itself])
    totals = np.bincount(places[0], weights)
    return coo_array((weights / totals[places[0]], places), (len(sizes),) * 2).tocsr()


def _neighbours(
    segments: npt.NDArray[np.intp], count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """All pairs of different segments that touch each other or a third one, both ways around."""
    one = np.concatenate([segments[:, 1:].ravel(), segments[1:].ravel()])
    other = np.concatenate([segments[:, :-1].ravel(), segments[:-1].ravel()])
    ends = np.concatenate([one, other]), np.concatenate([other, one])
    touching = coo_array((np.ones(len(ends[0]), np.float32), ends), (count, count)).tocsr()
    near = (touching @ touching + touching).tocoo()
    different = near.row != near.col
    return near.row[different], near.col[different]
