"""Windows cover the picture, whatever its shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localize.options import Options
from localize.windows import DIAL, make_grids, within_budget

SCALES = (1.0, 0.71, 0.5, 0.35)
sides = st.integers(1, 3000)


def test_a_4_to_3_photo_gets_at_most_64_windows_by_default():
    options = Options()
    assert 50 <= sum(map(len, make_grids(640, 480, 224, options.scales, options.stride))) <= 64


def test_half_overlapping_windows_of_four_scales_are_59_with_the_whole_picture():
    grids = make_grids(640, 480, 224, SCALES, 0.5)
    assert [len(grid) for grid in grids] == [1, 2, 6, 15, 35]


def test_the_first_window_is_the_whole_picture():
    whole = make_grids(640, 480, 224, SCALES, 0.5)[0]
    assert whole.boxes.tolist() == [[0, 0, 640, 480]]


def test_without_scales_only_the_whole_picture_is_left():
    assert sum(map(len, make_grids(640, 480, 224, (), 0.5))) == 1


def test_a_tiny_picture_has_few_windows_for_none_is_smaller_than_eight_pixels():
    grids = make_grids(2, 30, 224, Options().scales, Options().stride)
    assert sum(map(len, grids)) <= 10
    for grid in make_grids(40, 30, 224, (1.0, 0.5, 0.1), 0.75)[1:]:
        left, _, right, _ = grid.boxes.T
        assert (right - left).max() >= 7.9


def test_scales_that_come_to_the_same_side_are_one_grid():
    assert len(make_grids(640, 100, 224, (160, 1.0, 200, 0.5), 0.5)) == 3


def test_windows_are_square_and_of_the_size_asked_for():
    for grid, scale in zip(make_grids(640, 480, 224, SCALES, 0.5)[1:], SCALES, strict=True):
        left, top, right, bottom = grid.boxes.T
        assert right - left == pytest.approx(scale * 480, rel=0.01)
        assert bottom - top == pytest.approx(scale * 480, rel=0.01)


def test_a_scale_above_one_is_pixels():
    (_, grid) = make_grids(640, 480, 224, (160,), 1.0)
    assert grid.boxes[0].tolist() == [0, 0, 160, 160]
    assert len(grid) == 4 * 3


def test_windows_in_pixels_are_no_larger_than_the_short_side():
    (_, grid) = make_grids(640, 100, 224, (160,), 1.0)
    assert grid.boxes[0] == pytest.approx([0, 0, 100, 100], rel=1e-3)


def test_a_stride_of_one_gives_patches_that_do_not_overlap():
    (_, grid) = make_grids(600, 400, 100, (100,), 1.0)
    expected = [(x, y, x + 100, y + 100) for y in range(0, 400, 100) for x in range(0, 600, 100)]
    assert grid.boxes.tolist() == [list(box) for box in expected]


def test_windows_are_spread_evenly_and_the_last_one_ends_at_the_border():
    (_, grid) = make_grids(250, 100, 100, (100,), 1.0)
    assert grid.boxes[:, 0].tolist() == [0, 75, 150]


@given(sides, sides, st.sampled_from([0.1, 0.25, 0.5, 0.77, 1.0]), st.sampled_from([32, 224]))
@settings(max_examples=60, deadline=None)
def test_every_pixel_lies_in_a_window_of_every_scale(width, height, stride, image_size):
    for grid in make_grids(width, height, image_size, SCALES, stride):
        assert _is_covered(grid.boxes[:, [0, 2]], width)
        assert _is_covered(grid.boxes[:, [1, 3]], height)
        assert len(grid.boxes) == len(grid)


def _is_covered(intervals, length):
    """Whether intervals, sorted by where they begin, leave no gap between 0 and length."""
    reached = 0.0
    for start, end in np.unique(intervals, axis=0):
        if start > reached + 1e-3:
            return False
        reached = max(reached, end)
    return reached == length


@given(sides, sides)
@settings(max_examples=60, deadline=None)
def test_windows_stay_inside_the_picture(width, height):
    for grid in make_grids(width, height, 224, SCALES, 0.5):
        boxes = grid.boxes
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= width).all()
        assert (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


@given(st.integers(100, 800), st.integers(100, 800), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_scaling_the_picture_scales_its_windows(width, height, factor):
    small = make_grids(width, height, 224, SCALES, 0.5)
    large = make_grids(width * factor, height * factor, 224, SCALES, 0.5)
    for before, after in zip(small, large, strict=True):
        assert len(before) == len(after)
        # Where a level's side is on the verge of two numbers of pixels it may be either.
        pixel = max(after.picture) / max(after.level)
        assert after.boxes == pytest.approx(before.boxes * factor, rel=1e-4, abs=pixel)


@pytest.mark.parametrize("size", [(1, 5000), (20000, 3), (1, 1)])
def test_a_strip_of_a_pixel_is_not_cut_into_thousands_of_windows(size):
    assert sum(map(len, make_grids(*size, 224, SCALES, 0.5))) < 500


@given(sides, sides, st.integers(1, 600))
@settings(max_examples=40, deadline=None)
def test_a_budget_is_kept_to_by_the_best_even_grid_for_it(width, height, budget):
    grids = within_budget(width, height, 224, budget)
    every = [make_grids(width, height, 224, *setting) for setting in DIAL]
    kept = [each for each in every if sum(map(len, each)) <= budget]
    assert grids == (kept[-1] if kept else make_grids(width, height, 224, (), 1.0))
    assert sum(map(len, grids)) <= budget


def test_the_dial_goes_from_few_windows_to_the_default():
    counts = [sum(map(len, make_grids(640, 480, 224, *setting))) for setting in DIAL]
    assert counts == sorted(set(counts))
    assert counts[0] < 8
    assert DIAL[-1] == (Options().scales, Options().stride)


def test_the_order_of_scales_does_not_matter():
    ordered = make_grids(640, 480, 224, (1.0, 0.5, 100), 0.75)
    assert make_grids(640, 480, 224, (100, 0.5, 1.0), 0.75) == ordered
