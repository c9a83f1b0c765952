"""What there is to see in a picture, place by place."""

import numpy as np
import pytest

from localize.content import content


def test_a_textured_place_shows_more_than_a_plain_one():
    pixels = np.full((240, 320, 3), 120, np.uint8)
    pixels[:, 160:] = np.random.default_rng(0).integers(0, 256, (240, 160, 3))
    plain, textured = np.split(content(pixels), 2, axis=1)
    assert textured.mean() > 10 * plain[:, :-2].mean()


def test_an_edge_of_colour_alone_shows_too():
    pixels = np.full((240, 320, 3), (200, 60, 60), np.uint8)
    pixels[:, 160:] = (60, 132, 60)
    found = content(pixels)
    assert found[:, 22:26].mean() > 10 * found[:, :20].mean()


def test_a_picture_of_one_colour_shows_the_same_everywhere():
    assert content(np.full((100, 200, 3), 9, np.uint8)) == pytest.approx(np.ones((24, 48)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (5000, 2), (30, 40)])
def test_pictures_of_any_shape_are_taken(size):
    found = content(np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8))
    assert max(found.shape) <= 48
    assert found.min() > 0
    assert found.mean() == pytest.approx(1, rel=0.01)
