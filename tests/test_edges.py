"""Maps follow the edges of the picture."""

import numpy as np
import pytest

from localize.edges import (
    LIKENESS,
    OWN,
    SHARE,
    Superpixels,
    follow_edges,
    segment_means,
    sharing,
    superpixels,
)


def test_a_segment_has_the_mean_of_its_pixels():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 7, 9), np.float32)
    segments = rng.integers(0, 5, (7, 9))
    means = segment_means(maps, segments)
    assert means.dtype == np.float32
    for segment in range(5):
        expected = maps[:, segments == segment].mean(1)
        np.testing.assert_allclose(means[:, segment], expected, rtol=1e-5)


def patchwork(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Segments of 4 x 5 squares in a map of 12 x 20, and a colour for each."""
    rows, columns = np.mgrid[:12, :20]
    segments = rows // 3 * 5 + columns // 4
    return segments, np.random.default_rng(seed).normal(size=(3, 20)).astype(np.float32)


def plain_sharing(segments: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """`sharing`, pair by pair."""
    height, width = segments.shape
    touching = {
        (segments[y, x], segments[v, u])
        for y, x in np.ndindex(height, width)
        for v, u in ((y + 1, x), (y, x + 1))
        if v < height and u < width and segments[y, x] != segments[v, u]
    }
    touching |= {(j, i) for i, j in touching}
    near = touching | {(i, k) for i, j in touching for j2, k in touching if j == j2 and i != k}
    distance = {(i, j): float(((colours[:, i] - colours[:, j]) ** 2).sum()) for i, j in near}
    mean = np.mean(list(distance.values()))
    weights = np.diag(OWN * np.bincount(segments.ravel()))
    for (i, j), squared in distance.items():
        weights[i, j] = (segments == j).sum() * np.exp(-squared / (LIKENESS * mean))
    return weights / weights.sum(1, keepdims=True)


def test_near_segments_share_by_size_and_by_likeness_of_colour():
    segments, colours = patchwork(1)
    segments[segments == 3] = 8  # not all of one size
    segments = np.unique(segments, return_inverse=True)[1].reshape(segments.shape)
    colours = colours[:, : segments.max() + 1]
    colours[:, ::2] = colours[:, :1] + colours[:, ::2] / 9  # weights that differ in degree
    found = sharing(segments, colours).toarray()
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found, plain_sharing(segments, colours), atol=1e-6)


def test_sharing_settles_where_every_segment_agrees_with_its_neighbours():
    segments, colours = patchwork(2)
    each = Superpixels(segments, sharing(segments, colours / 9))
    maps = np.random.default_rng(3).random((2, 12, 20), np.float32)
    means = segment_means(maps, segments).T
    settled = np.linalg.solve(
        np.eye(len(means)) - SHARE * each.sharing.toarray(), (1 - SHARE) * means
    )
    found = follow_edges(maps, [each])
    np.testing.assert_allclose(found, settled.T[:, segments], atol=1e-3)


def test_the_map_is_the_mean_over_segmentations():
    maps = np.random.default_rng(4).random((2, 12, 20), np.float32)
    one, other = (Superpixels(s, sharing(s, c)) for s, c in (patchwork(5), patchwork(6)))
    alone = [follow_edges(maps, [each]) for each in (one, other)]
    np.testing.assert_allclose(follow_edges(maps, [one, other]), np.mean(alone, axis=0), atol=1e-6)


def test_relevance_spreads_over_parts_of_one_colour_and_not_across_an_edge():
    # A red bar between green ones, of segments that cut it into four: only the first is relevant.
    rows, columns = np.mgrid[:12, :40]
    segments = rows // 4 * 4 + columns // 10
    colours = np.tile([[0.0], [90.0], [0.0]], 12).astype(np.float32)
    colours[:, 4:8] = [[90.0], [0.0], [0.0]]
    relevance = (segments == 4).astype(np.float32)
    shared = follow_edges(relevance[None], [Superpixels(segments, sharing(segments, colours))])[0]
    bar, around = shared[5, [15, 25]], shared[[1, 1, 10, 10], [5, 15, 5, 15]]
    assert bar.min() > 0.02
    assert around.max() < 1e-6
    assert shared[5, 5] == shared.max() < 1


def test_a_blurred_map_becomes_as_sharp_as_the_thing_in_the_picture():
    pixels = np.full((240, 320, 3), 200, np.uint8)
    pixels[80:160, 100:200] = (180, 20, 20)
    inside = (pixels[::2, ::2] == (180, 20, 20)).all(-1)
    ys, xs = np.mgrid[:120, :160]
    blurred = np.exp(-(((ys - 60) / 30) ** 2) - ((xs - 75) / 35) ** 2).astype(np.float32)
    before, after = blurred, follow_edges(blurred[None], superpixels(pixels, (160, 120)))[0]
    spread = [np.ptp(each[inside]) for each in (before, after)]
    assert spread[1] < spread[0] / 2
    steps = [abs(each[60, 45] - each[60, 55]) for each in (before, after)]
    assert steps[1] > 2 * steps[0]


def test_a_hazy_picture_has_the_edges_of_a_clear_one():
    clear = (
        np.random.default_rng(7).integers(0, 255, (6, 8, 3)).astype(np.float32).transpose(2, 0, 1)
    )
    segments = np.arange(48).reshape(6, 8)
    colours = clear.reshape(3, -1)
    np.testing.assert_allclose(
        sharing(segments, colours).toarray(), sharing(segments, colours / 20).toarray(), atol=1e-5
    )


def test_a_picture_without_edges_gives_a_flat_map_of_the_same_mean():
    maps = np.random.default_rng(1).random((2, 30, 40), np.float32)
    averaged = follow_edges(maps, superpixels(np.full((60, 80, 3), 99, np.uint8), (40, 30)))
    np.testing.assert_allclose(averaged.mean((1, 2)), maps.mean((1, 2)), rtol=1e-5)
    assert np.ptp(averaged, axis=(1, 2)).max() < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (40, 60)])
def test_maps_of_any_shape_stay_in_their_range(size):
    maps = np.random.default_rng(2).random((2, *size), np.float32)
    pixels = np.random.default_rng(3).integers(0, 255, (*size, 3)).astype(np.uint8)
    averaged = follow_edges(maps, superpixels(pixels, size[::-1]))
    assert averaged.shape == maps.shape
    assert averaged.dtype == np.float32
    assert maps.min() - 1e-6 <= averaged.min() <= averaged.max() <= maps.max() + 1e-6
