"""What must hold for every picture, map and window, tried on many that hypothesis thinks of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from colours import ColourEncoder
from hypothesis import given, settings
from hypothesis import strategies as st

from localize import Localizer
from localize.boxes import find_boxes
from localize.relevance import map_size, overlap_average, relevance_maps
from localize.windows import Grid, make_grids

sides = st.integers(1, 400)
small = st.integers(1, 24)
scales = st.lists(st.sampled_from([1.0, 0.7, 0.5, 0.33, 0.25, 40.0]), max_size=3)
strides = st.sampled_from([0.1, 0.3, 0.5, 0.75, 1.0])
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=40, derandomize=True, deadline=None)
fewer = settings(max_examples=10, derandomize=True, deadline=None)


# Windows ----------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 5000), scales, strides)
@few
def test_windows_run_from_border_to_border_in_steps_no_longer_than_the_stride(
    width: int, height: int, sizes: list[float], stride: float
) -> None:
    for grid in make_grids(width, height, 64, sizes, stride)[1:]:
        for starts, length in ((grid.xs, grid.level[0]), (grid.ys, grid.level[1])):
            assert starts[0] == 0
            if length <= grid.side:  # One window reaches past a picture that is narrower.
                assert len(starts) == 1
            else:
                assert starts[-1] + grid.side == length
                assert np.diff(starts).min() > 0
                assert np.diff(starts).max() <= math.ceil(stride * grid.side) + 1


# Overlap-averaging ------------------------------------------------------------------------------


def scores_of(grids: tuple[Grid, ...], cells: int, seed: int) -> torch.Tensor:
    shape = (sum(map(len, grids)), cells, cells, 2)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@given(sides, sides, scales, strides, st.integers(1, 7), st.floats(0, 1))
@few
def test_constant_scores_give_a_constant_map(
    width: int, height: int, sizes: list[float], stride: float, cells: int, score: float
) -> None:
    grids = make_grids(width, height, 32, sizes, stride)
    windows = torch.full((sum(map(len, grids)), 1), score)
    tokens = torch.full((len(windows), cells, cells, 1), score)
    for maps in (relevance_maps(grids, windows, None), relevance_maps(grids, windows, tokens)):
        assert maps.shape[1:] == map_size(width, height)[::-1]
        np.testing.assert_allclose(maps, score, atol=1e-5)


@given(sides, sides, scales, strides, st.integers(1, 7), seeds)
@few
def test_a_map_stays_between_the_least_and_the_greatest_score(
    width: int, height: int, sizes: list[float], stride: float, cells: int, seed: int
) -> None:
    grids = make_grids(width, height, 32, sizes, stride)
    for grid, scores in zip(
        grids, scores_of(grids, cells, seed).split([len(grid) for grid in grids]), strict=True
    ):
        found = overlap_average(grid, scores)
        least, most = scores.amin((0, 1, 2)), scores.amax((0, 1, 2))
        assert (found >= least[:, None, None] - 1e-5).all()
        assert (found <= most[:, None, None] + 1e-5).all()


@given(small, small, strides, st.integers(1, 3), seeds)
@fewer
def test_a_map_is_what_a_loop_over_pixels_windows_and_cells_gives(
    width: int, height: int, stride: float, cells: int, seed: int
) -> None:
    _, grid = grids = make_grids(width, height, 16, (0.6,), max(stride, 0.3))
    scores = scores_of(grids, cells, seed)[1:]
    expected = np.zeros((2, height, width))
    for y in range(height):
        for x in range(width):
            expected[:, y, x] = average_at(grid, scores.numpy(), x + 0.5, y + 0.5)
    np.testing.assert_allclose(overlap_average(grid, scores), expected, rtol=1e-3, atol=1e-5)


def average_at(grid: Grid, scores: np.ndarray, x: float, y: float) -> np.ndarray:
    """The mean over the windows that hold a place, weighted by Gaussians about their centres."""
    total, weights = np.zeros(2), 0.0
    corners = [(left, top) for top in grid.ys for left in grid.xs]
    for (left, top), cells in zip(corners, scores, strict=True):
        across = (x * grid.level[0] / grid.picture[0] - left) / grid.side
        down = (y * grid.level[1] / grid.picture[1] - top) / grid.side
        if 0 <= across < 1 and 0 <= down < 1:
            weight = math.exp(-8 * (across - 0.5) ** 2) * math.exp(-8 * (down - 0.5) ** 2)
            total += weight * between_cells(cells, across, down)
            weights += weight
    return total / weights


def between_cells(cells: np.ndarray, across: float, down: float) -> np.ndarray:
    """Bilinear interpolation between the centres of cells (n, n, P), at a place in [0, 1)."""
    last = len(cells) - 1
    column = min(max(across * len(cells) - 0.5, 0), last)
    row = min(max(down * len(cells) - 0.5, 0), last)
    left, top = int(column), int(row)
    right, bottom = min(left + 1, last), min(top + 1, last)
    upper = cells[top, left] + (column - left) * (cells[top, right] - cells[top, left])
    lower = cells[bottom, left] + (column - left) * (cells[bottom, right] - cells[bottom, left])
    return np.asarray(upper + (row - top) * (lower - upper))


# Boxes ------------------------------------------------------------------------------------------


def blocks(height: int, width: int, seed: int, side: int = 4) -> np.ndarray:
    """A map (height * side, width * side) of random blocks, mostly faint."""
    values = np.random.default_rng(seed).random((height, width), np.float32) ** 3
    return values.repeat(side, 0).repeat(side, 1)


@given(st.integers(1, 30), st.integers(1, 30), seeds, st.sampled_from([1, 4]), st.floats(0, 1))
@few
def test_boxes_lie_inside_the_map_best_first_and_score_what_was_asked_for(
    height: int, width: int, seed: int, side: int, threshold: float
) -> None:
    relevance = blocks(height, width, seed, side)
    found = find_boxes(relevance, threshold=threshold)
    assert found.dtype == np.float32
    assert found.shape[1:] == (5,)
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:4] <= relevance.shape[::-1]).all()
    assert (found[:, 2:4] > found[:, :2]).all()
    assert ((found[:, 4] > 0) & (found[:, 4] <= 1) & (found[:, 4] >= threshold)).all()
    assert (np.diff(found[:, 4]) <= 0).all()


@given(st.integers(2, 15), st.integers(2, 15), seeds, st.integers(2, 4))
@few
def test_enlarging_a_map_enlarges_its_boxes_and_leaves_their_scores(
    height: int, width: int, seed: int, factor: int
) -> None:
    relevance = blocks(height, width, seed)
    found = find_boxes(relevance)
    enlarged = find_boxes(relevance.repeat(factor, 0).repeat(factor, 1))
    assert len(enlarged) == len(found)
    expected = found * np.array([factor] * 4 + [1])
    np.testing.assert_allclose(by_place(enlarged), by_place(expected), atol=1e-4)


def by_place(boxes: np.ndarray) -> np.ndarray:
    return np.array(sorted(boxes.round(5).tolist()))


things = st.tuples(*(st.integers(0, 100) for _ in range(4)))


def painted(width: int, height: int, thing: tuple[int, int, int, int]) -> np.ndarray:
    """A grey picture with a red rectangle of at least a fifth of each side."""
    left, top = (
        place * side * 0.8 / 100 for place, side in zip(thing[:2], (width, height), strict=True)
    )
    right = left + width * 0.2 + (width * 0.8 - left) * thing[2] / 200
    bottom = top + height * 0.2 + (height * 0.8 - top) * thing[3] / 200
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[round(top) : round(bottom), round(left) : round(right)] = (255, 0, 0)
    return pixels


@given(st.integers(60, 240), st.integers(60, 240), things)
@fewer
def test_boxes_lie_inside_the_picture_and_presence_bounds_their_scores(
    width: int, height: int, thing: tuple[int, int, int, int]
) -> None:
    result = Localizer(ColourEncoder()).locate(painted(width, height, thing), ["red", "blue"])
    assert "red" in [box.label for box in result.boxes]
    for box in result.boxes:
        left, top, right, bottom = box.xyxy
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert 0 < box.score <= result.presence[result.prompts.index(box.label)]


@given(st.integers(160, 240), st.integers(100, 240), things, st.integers(2, 3))
@fewer
def test_enlarging_a_picture_enlarges_its_best_box_by_the_same_factor(
    width: int, height: int, thing: tuple[int, int, int, int], factor: int
) -> None:
    pixels = painted(width, height, thing)
    localizer = Localizer(ColourEncoder())
    once = localizer.locate(pixels, "red")
    large = localizer.locate(pixels.repeat(factor, 0).repeat(factor, 1), "red")
    map_width, map_height = map_size(width, height)
    one_pixel = np.array([width / map_width, height / map_height] * 2) + 1e-3
    apart = np.abs(np.array(large.boxes[0].xyxy) / factor - once.boxes[0].xyxy)
    assert (apart <= one_pixel).all()
    assert large.boxes[0].score == pytest.approx(once.boxes[0].score, abs=0.02)
