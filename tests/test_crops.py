"""Crops out of the pyramid are the crops that one would cut and resize one by one."""

import numpy as np
import pytest
import torch
from PIL import Image

from localize.crops import batches, crops_of
from localize.windows import make_grids

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
CPU = torch.device("cpu")


@pytest.fixture
def pixels():
    """A smooth random picture, as photos are."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return np.array(Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC))


def crops(pixels, image_size, scales, stride=0.5, interpolation="bicubic"):
    height, width = pixels.shape[:2]
    grids = make_grids(width, height, image_size, scales, stride)
    views = crops_of(pixels, grids, MEAN, STD, interpolation, CPU)
    return torch.stack(list(views)), np.concatenate([grid.boxes for grid in grids])


def normalised(pixels):
    return ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)


def test_there_is_one_crop_a_window(pixels):
    found, boxes = crops(pixels, 64, (1.0, 0.71, 0.5, 0.35))
    assert found.shape == (len(boxes), 3, 64, 64)
    assert found.dtype == torch.float32


def test_windows_of_the_native_size_are_cut_out_pixel_for_pixel(pixels):
    found, boxes = crops(pixels, 80, (80,))
    for crop, (left, top, right, bottom) in zip(found[1:], boxes[1:].astype(int), strict=True):
        expected = normalised(pixels[top:bottom, left:right])
        assert crop.numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resized_crops_are_close_to_those_that_pillow_resizes_one_by_one(pixels, interpolation):
    found, boxes = crops(pixels, 64, (1.0, 0.71, 0.5, 0.35), interpolation=interpolation)
    picture, filter_ = Image.fromarray(pixels), Image.Resampling[interpolation.upper()]
    for crop, box in zip(found, boxes.tolist(), strict=True):
        expected = normalised(np.asarray(picture.resize((64, 64), filter_, box=box)))
        error = np.abs(crop.numpy() - expected)
        assert error.mean() < 0.02


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_levels_are_the_bytes_that_pillow_resizes_to(pixels, interpolation):
    """One window as large as the picture's short side: nothing but resizing differs."""
    found, _ = crops(pixels[:, :240], 64, (1.0,), interpolation=interpolation)
    filter_ = Image.Resampling[interpolation.upper()]
    expected = normalised(np.asarray(Image.fromarray(pixels[:, :240]).resize((64, 64), filter_)))
    assert np.abs(found[1].numpy() - expected).max() < 1.01 / 255 / min(STD)


def test_a_large_picture_gives_the_crops_of_its_small_version(pixels):
    large = np.array(Image.fromarray(pixels).resize((3200, 2400), Image.Resampling.BICUBIC))
    small, _ = crops(pixels, 32, (1.0, 0.5))
    found, _ = crops(large, 32, (1.0, 0.5))
    assert (found - small).abs().mean() < 0.02


def test_a_level_made_in_bands_gives_the_crops_of_one_made_at_once(pixels, monkeypatch):
    at_once, _ = crops(pixels, 64, (100,), stride=0.3)
    monkeypatch.setattr("localize.crops.BAND_PIXELS", 0)
    in_bands, _ = crops(pixels, 64, (100,), stride=0.3)
    assert in_bands.shape == at_once.shape
    assert (in_bands - at_once).abs().mean() < 0.05


def test_what_lies_beyond_a_narrow_picture_is_the_mean_colour():
    strip = np.full((2, 640, 3), 255, np.uint8)
    found, boxes = crops(strip, 32, (1.0,))
    assert boxes[1].tolist() == [0, 0, 40, 2]
    assert (found[1, :, 2:] == 0).all()
    assert (found[1, :, :2] > 1).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (300, 2)])
def test_tiny_pictures_give_finite_crops(size):
    found, boxes = crops(np.full((*size, 3), 7, np.uint8), 32, (1.0, 0.5))
    assert found.isfinite().all()
    assert len(found) == len(boxes)


def test_batches_hold_every_crop_once_in_order():
    items = [torch.full((3, 2, 2), float(number)) for number in range(7)]
    found = list(batches(iter(items), 3))
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert torch.cat(found)[:, 0, 0, 0].tolist() == list(range(7))
