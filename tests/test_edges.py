"""Maps follow the edges of the picture."""

import numpy as np

from localize.edges import follow_edges, segment_means, superpixels


def test_every_pixel_gets_the_mean_of_its_segment():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 7, 9), np.float32)
    segments = rng.integers(0, 5, (7, 9))
    averaged = segment_means(maps, segments)
    for row, column in np.ndindex(segments.shape):
        same = segments == segments[row, column]
        expected = maps[:, same].mean(1)
        np.testing.assert_allclose(averaged[:, row, column], expected, rtol=1e-5)


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


def test_a_picture_without_edges_gives_a_flat_map_of_the_same_mean():
    maps = np.random.default_rng(1).random((2, 30, 40), np.float32)
    averaged = follow_edges(maps, superpixels(np.full((60, 80, 3), 99, np.uint8), (40, 30)))
    np.testing.assert_allclose(averaged.mean((1, 2)), maps.mean((1, 2)), rtol=1e-5)
    assert np.ptp(averaged, axis=(1, 2)).max() < 1e-5


def test_maps_of_one_pixel_and_of_strips_are_taken():
    for height, width in [(1, 1), (1, 50), (50, 1)]:
        maps = np.random.default_rng(2).random((2, height, width), np.float32)
        pixels = np.random.default_rng(3).integers(0, 255, (height, width, 3)).astype(np.uint8)
        averaged = follow_edges(maps, superpixels(pixels, (width, height)))
        assert averaged.shape == maps.shape
        assert averaged.dtype == np.float32
        assert maps.min() - 1e-6 <= averaged.min() <= averaged.max() <= maps.max() + 1e-6
