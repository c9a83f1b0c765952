"""Boxes go around what stands out of a map."""

import numpy as np
import pytest

from localize.boxes import DOUBT, OVERLAP, contrast, find_boxes, threshold_boxes


def map_of(*things, shape=(60, 80), background=0.02):
    """A map with a bright rectangle for each (left, top, right, bottom, relevance)."""
    relevance = np.full(shape, background, np.float32)
    for left, top, right, bottom, value in things:
        relevance[top:bottom, left:right] = value
    return relevance


def iou(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:4], b[2:4])
    shared = np.clip(high - low, 0, None).prod()
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("find", [find_boxes, threshold_boxes])
def test_a_thing_gets_its_exact_box(find):
    boxes = find(map_of((20, 10, 50, 40, 0.8)))
    assert boxes.dtype == np.float32
    assert boxes[0, :4].tolist() == [20, 10, 50, 40]


@pytest.mark.parametrize("find", [find_boxes, threshold_boxes])
def test_an_empty_or_flat_map_has_no_box_that_stands_out(find):
    assert find(np.zeros((20, 30), np.float32)).shape == (0, 5)
    flat = find(np.full((20, 30), 0.5, np.float32))
    assert (flat[:, 4] <= 0.5).all()


def test_two_neighbours_stay_apart_though_the_space_between_them_is_relevant_too():
    relevance = map_of((5, 20, 70, 40, 0.2), (8, 20, 33, 40, 0.9), (42, 20, 67, 40, 0.8))
    best = find_boxes(relevance)[:2]
    assert sorted(best[:, :4].tolist()) == [[8, 20, 33, 40], [42, 20, 67, 40]]


def test_a_faint_thing_beside_a_strong_one_is_found_where_one_threshold_misses_it():
    relevance = map_of((5, 5, 25, 25, 0.9), (50, 30, 70, 50, 0.2))
    faint = [50, 30, 70, 50]
    assert faint in find_boxes(relevance)[:, :4].tolist()
    assert faint not in threshold_boxes(relevance)[:, :4].tolist()


def test_a_thing_with_a_bright_part_is_not_split():
    relevance = map_of((10, 10, 50, 50, 0.6), (25, 25, 35, 35, 0.75))
    assert find_boxes(relevance)[0, :4].tolist() == [10, 10, 50, 50]


def test_a_part_of_a_thing_is_in_the_ranked_list_and_not_reported_from_its_score_on():
    relevance = map_of((10, 10, 50, 50, 0.5), (25, 25, 35, 35, 0.95))
    whole, part = find_boxes(relevance)[:2]
    assert whole[:4].tolist() == [10, 10, 50, 50]
    assert part[:4].tolist() == [25, 25, 35, 35]
    reported = find_boxes(relevance, threshold=0.75 * part[4])
    assert reported.tolist() == [whole.tolist()]
    assert find_boxes(relevance, threshold=0.3 * part[4])[:2].tolist() == [
        whole.tolist(),
        part.tolist(),
    ]


def test_a_box_scores_by_the_better_of_its_contrasts_in_the_map_and_the_plain_one():
    plain = map_of((20, 20, 60, 50, 0.8), background=0.05)
    telling = plain * map_of((20, 20, 30, 30, 1.0), background=0.3)
    boxes = np.array([[20, 20, 60, 50], [20, 20, 30, 30]])
    scores = {
        tuple(box): score
        for *box, score in find_boxes(telling, plain=plain).tolist()
        if box in boxes.tolist()
    }
    whole, part = np.maximum(contrast(telling, boxes), contrast(plain, boxes))
    assert scores[20, 20, 60, 50] == pytest.approx(whole)
    assert scores[20, 20, 30, 30] == pytest.approx(DOUBT * part)
    assert whole == pytest.approx(contrast(plain, boxes)[0])
    assert find_boxes(telling)[0, :4].tolist() == [20, 20, 30, 30]


def test_boxes_come_best_first_and_do_not_overlap_much():
    relevance = np.random.default_rng(0).random((60, 80), np.float32) ** 4
    boxes = find_boxes(relevance)
    assert (np.diff(boxes[:, 4]) <= 0).all()
    assert ((boxes[:, 4] > 0) & (boxes[:, 4] <= 1)).all()
    for first in range(len(boxes)):
        for second in range(first):
            assert iou(boxes[first], boxes[second]) <= OVERLAP + 1e-6


def test_contrast_is_that_of_means_over_the_pixels_inside_and_around():
    rng = np.random.default_rng(1)
    relevance = rng.random((40, 50), np.float32)
    boxes = np.array([[10, 8, 22, 28], [0, 0, 9, 9], [30, 20, 50, 40], [0, 0, 50, 40]])
    expected = [_contrast_pixel_by_pixel(relevance, box) for box in boxes.tolist()]
    np.testing.assert_allclose(contrast(relevance, boxes), expected, rtol=1e-4, atol=1e-6)


def _contrast_pixel_by_pixel(relevance, box):
    left, top, right, bottom = box
    height, width = relevance.shape
    inside = float(relevance[top:bottom, left:right].mean())
    across, down = (max(1, round((right - left) / 4)), max(1, round((bottom - top) / 4)))
    ring = []
    for y in range(top - down, bottom + down):
        for x in range(left - across, right + across):
            if left <= x < right and top <= y < bottom:
                continue
            in_picture = 0 <= y < height and 0 <= x < width
            ring.append(float(relevance[y, x]) if in_picture else inside / 2)
    return max(0.0, inside**0.45 * (1 - np.mean(ring) / inside))


def test_the_same_thing_scores_less_in_a_relevant_surrounding():
    alone = map_of((20, 20, 40, 40, 0.6))
    surrounded = map_of((20, 20, 40, 40, 0.6), background=0.4)
    box = np.array([[20, 20, 40, 40]])
    assert contrast(alone, box)[0] > 2 * contrast(surrounded, box)[0]


def nested_with_a_better_one(row, boxes):
    low = np.maximum(boxes[row, :2], boxes[:row, :2])
    high = np.minimum(boxes[row, 2:4], boxes[:row, 2:4])
    shared = np.maximum(high - low, 0).prod(1)
    areas = (boxes[:, 2:4] - boxes[:, :2]).prod(1)
    return bool((shared > 0.75 * np.minimum(areas[row], areas[:row])).any())


@pytest.mark.parametrize("find", [find_boxes, threshold_boxes])
def test_a_threshold_leaves_out_the_boxes_that_score_less_and_doubtful_nested_ones(find):
    relevance = np.random.default_rng(2).random((60, 80), np.float32) ** 4
    every = find(relevance)
    for threshold in (0.05, 0.1, float(every[len(every) // 2, 4]) + 1e-5, 0.99):
        kept = find(relevance, threshold).tolist()
        expected = [
            box.tolist()
            for row, box in enumerate(every)
            if box[4] >= threshold * (2 if nested_with_a_better_one(row, every) else 1)
        ]
        assert kept == expected


def test_a_map_of_one_pixel_is_taken():
    assert find_boxes(np.ones((1, 1), np.float32)).shape[1] == 5


def test_a_box_around_two_things_is_doubted_beside_the_better_box_of_one_of_them():
    relevance = np.full((60, 90), 0.02, np.float32)
    relevance[20:40, 10:80] = 0.3
    relevance[20:40, 10:30] = 0.9
    found = find_boxes(relevance)
    (part,) = [box for box in found if box[:4].tolist() == [10, 20, 30, 40]]
    (around,) = [box for box in found if box[:4].tolist() == [10, 20, 80, 40]]
    alone = contrast(relevance, np.array([[10, 20, 80, 40]]))
    assert around[4] == pytest.approx(0.5 * alone[0], abs=1e-6)
    assert part[4] > around[4]
