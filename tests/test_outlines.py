"""Boxes of grouped superpixels, and how much a box cuts superpixels apart."""

from itertools import combinations

import cv2
import numpy as np

from localize.boxes import find_boxes
from localize.edges import superpixels
from localize.outlines import BINS, Outlines, grouped_boxes, make_outlines


def blocks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of noisy coloured blocks (24, 30, 3) and its segments: blocks of 6 x 6 pixels."""
    rng = np.random.default_rng(seed)
    segments = np.repeat(np.repeat(np.arange(20).reshape(4, 5), 6, 0), 6, 1)
    colours = rng.integers(0, 256, (20, 3))
    noise = rng.integers(-9, 10, (24, 30, 3))
    return np.clip(colours[segments] + noise, 0, 255).astype(np.uint8), segments


def box_of(mask: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def plainly_grouped(pixels: np.ndarray, segments: np.ndarray) -> set[tuple[int, ...]]:
    """Selective Search's grouping with masks: all pairs are compared anew before each join."""
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)

    def histogram(mask):
        parts = [np.histogram(lab[..., c][mask], BINS, (0, 256))[0] for c in range(3)]
        return np.concatenate(parts) / (3 * mask.sum())

    def touching(a, b):
        grown = cv2.dilate(a.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
        return bool((grown.astype(bool) & b).any())

    def alike(a, b):
        left, top, right, bottom = box_of(a | b)
        size, area = a.sum() + b.sum(), a.size
        colours = np.minimum(histogram(a), histogram(b)).sum()
        fill = 1 - ((right - left) * (bottom - top) - size) / area
        return colours + 1 - size / area + fill

    groups = [segments == number for number in range(segments.max() + 1)]
    found = set(map(box_of, groups))
    while len(groups) > 1:
        pairs = [pair for pair in combinations(range(len(groups)), 2)
                 if touching(groups[pair[0]], groups[pair[1]])]  # fmt: skip
        one, two = max(pairs, key=lambda pair: alike(groups[pair[0]], groups[pair[1]]))
        both = groups[one] | groups[two]
        groups = [g for i, g in enumerate(groups) if i not in (one, two)] + [both]
        found.add(box_of(both))
    return found


def test_groups_are_those_of_joining_the_most_alike_neighbours_again_and_again():
    for seed in range(3):
        pixels, segments = blocks(seed)
        found = grouped_boxes(pixels, segments)
        assert set(map(tuple, found.tolist())) == plainly_grouped(pixels, segments)
        assert len(np.unique(found, axis=0)) == len(found)


def test_a_picture_of_one_segment_has_one_group():
    pixels = np.full((10, 14, 3), 80, np.uint8)
    assert grouped_boxes(pixels, np.zeros((10, 14), np.intp)).tolist() == [[0, 0, 14, 10]]


def test_a_thing_of_two_colours_gets_a_box_of_its_own():
    pixels = np.full((120, 160, 3), (30, 120, 40), np.uint8)
    pixels[40:80, 50:70] = (220, 30, 30)
    pixels[40:80, 70:90] = (230, 60, 40)
    segments = superpixels(pixels, (160, 120))
    boxes = make_outlines(pixels, segments[1], segments[2]).boxes
    assert np.abs(boxes - (50, 40, 90, 80)).max(1).min() <= 2


def test_wholeness_counts_each_superpixel_by_its_smaller_part():
    rng = np.random.default_rng(0)
    pixels, segments = blocks(0)
    outlines = make_outlines(pixels, segments, segments)
    for _ in range(50):
        left, right = np.sort(rng.choice(31, 2, replace=False))
        top, bottom = np.sort(rng.choice(25, 2, replace=False))
        inside = np.zeros(segments.shape, bool)
        inside[top:bottom, left:right] = True
        cut = sum(
            min((inside & (segments == s)).sum(), (~inside & (segments == s)).sum())
            for s in range(20)
        )
        box = np.array([[left, top, right, bottom]])
        assert np.allclose(outlines.wholeness(box), max(0, 1 - cut / inside.sum()), atol=1e-6)


def test_a_blurred_map_gets_the_box_that_the_picture_suggests():
    pixels = np.full((120, 160, 3), (20, 60, 160), np.uint8)
    pixels[40:80, 50:110] = (240, 220, 40)
    relevance = np.zeros((120, 160), np.float32)
    relevance[48:72, 60:100] = 1
    relevance = cv2.GaussianBlur(relevance, (0, 0), 9)
    segments = superpixels(pixels, (160, 120))
    outlines: Outlines = make_outlines(pixels, segments[1], segments[2])
    thing = np.array([50, 40, 110, 80])
    off_without = np.abs(find_boxes(relevance)[0, :4] - thing).max()
    off_with = np.abs(find_boxes(relevance, outlines=outlines)[0, :4] - thing).max()
    assert off_with <= 2 < off_without
