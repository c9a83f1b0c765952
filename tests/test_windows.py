"""Windows cover the picture, whatever its shape."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localize.options import Options
from localize.windows import make_grids, within_budget

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
        assert after.boxes == pytest.approx(before.boxes * factor, rel=1e-4)


@pytest.mark.parametrize("size", [(1, 5000), (20000, 3), (1, 1)])
def test_a_strip_of_a_pixel_is_not_cut_into_thousands_of_windows(size):
    assert sum(map(len, make_grids(*size, 224, SCALES, 0.5))) < 500


def budgeted(content, budget, size=(640, 480), stride=0.375):
    return within_budget(make_grids(*size, 224, SCALES, stride), content, budget)


@given(sides, sides, st.integers(1, 80))
@settings(max_examples=40, deadline=None)
def test_a_budget_is_spent_and_not_overdrawn(width, height, budget):
    content = np.random.default_rng(0).random((36, 48)) + 0.01
    everything = sum(map(len, make_grids(width, height, 224, SCALES, 0.75)))
    grids = budgeted(content, budget, (width, height), 0.75)
    assert sum(map(len, grids)) == min(budget, everything)
    assert grids[0].boxes.tolist() == [[0, 0, width, height]]
    for grid in grids:
        assert len(grid.boxes) == len(grid) > 0


def test_a_budget_that_is_large_enough_changes_nothing():
    grids = make_grids(640, 480, 224, SCALES, 0.75)
    assert within_budget(grids, np.ones((36, 48)), sum(map(len, grids))) == grids


def test_windows_of_a_budget_are_windows_of_the_full_scan_in_its_order():
    full = {grid.level: grid.boxes.tolist() for grid in make_grids(640, 480, 224, SCALES, 0.375)}
    for grid in budgeted(np.ones((36, 48)), 50):
        places = [full[grid.level].index(box) for box in grid.boxes.tolist()]
        assert places == sorted(set(places))


def plain_greedy(grids, content, budget):
    """Boxes of the windows that `within_budget` chooses, with every gain computed every time."""
    height, width = content.shape

    def profile(grid, corner):
        across, down = (
            (np.arange(length) + 0.5) * grid.level[axis] / length - corner[axis]
            for axis, length in enumerate((width, height))
        )
        x, y = np.meshgrid(across / grid.side, down / grid.side)
        bell = np.exp(-8 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
        return bell * ((x >= 0) & (x < 1) & (y >= 0) & (y < 1))

    covered = {grid.level: np.zeros(content.shape) for grid in grids}
    windows = [
        (grid.level, box, profile(grid, corner))
        for grid in grids[1:]
        for corner, box in zip(grid.corners, grid.boxes.tolist(), strict=True)
    ]
    chosen = [grids[0].boxes[0].tolist()]
    while len(chosen) < budget:
        gains = [
            round((np.maximum(bell - covered[level], 0) * content).sum(), 9)
            for level, _, bell in windows
        ]
        level, box, bell = windows.pop(int(np.argmax(gains)))
        covered[level] = np.maximum(covered[level], bell)
        chosen.append(box)
    return chosen


@pytest.mark.parametrize("budget", [2, 10, 40])
def test_the_windows_chosen_are_those_of_a_plain_greedy_search(budget):
    content = np.random.default_rng(5).random((36, 48)) ** 3 + 0.01
    grids = make_grids(640, 480, 224, SCALES, 0.375)
    found = [box for grid in within_budget(grids, content, budget) for box in grid.boxes.tolist()]
    assert sorted(found) == sorted(plain_greedy(grids, content, budget))


def test_coarse_windows_come_before_fine_ones():
    few = budgeted(np.ones((36, 48)), 6)
    assert [len(grid) for grid in few[:2]] == [1, 2]


def test_fine_windows_are_spent_where_there_is_something_to_see():
    content = np.full((36, 48), 0.02)
    content[:18, :24] = 1
    finest = budgeted(content, 50)[-1].boxes
    centres = (finest[:, :2] + finest[:, 2:]) / 2
    there = (centres < (320, 240)).all(1)
    assert there.mean() > 0.5  # in a quarter of the picture


def test_where_everything_is_alike_windows_are_spread_over_the_picture():
    finest = budgeted(np.ones((36, 48)), 60)[-1].boxes
    centres = (finest[:, :2] + finest[:, 2:]) / 2
    for x, y in np.ndindex(2, 2):
        there = (centres // (320, 240) == (x, y)).all(1)
        assert 0.15 < there.mean() < 0.4
