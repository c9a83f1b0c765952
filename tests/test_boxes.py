"""Boxes go around what stands out of a map."""

import numpy as np
import pytest

from localize.boxes import (
    BESIDE,
    DOUBT,
    LEAN,
    OVERLAP,
    TIP_DOUBT,
    chances,
    contrast,
    contrast_of,
    enlarged,
    find_boxes,
)


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


def test_a_thing_gets_its_exact_box():
    boxes = find_boxes(map_of((20, 10, 50, 40, 0.8)))
    assert boxes.dtype == np.float32
    assert boxes[0, :4].tolist() == [20, 10, 50, 40]


def test_an_empty_or_flat_map_has_no_box_that_stands_out():
    assert find_boxes(np.zeros((20, 30), np.float32)).shape == (0, 5)
    flat = find_boxes(np.full((20, 30), 0.5, np.float32))
    assert (flat[:, 4] <= chances(np.array([0.5]))).all()


def test_two_neighbours_stay_apart_though_the_space_between_them_is_relevant_too():
    relevance = map_of((5, 20, 70, 40, 0.2), (8, 20, 33, 40, 0.9), (42, 20, 67, 40, 0.8))
    best = find_boxes(relevance)[:2]
    assert sorted(best[:, :4].tolist()) == [[8, 20, 33, 40], [42, 20, 67, 40]]


def test_a_faint_thing_beside_a_strong_one_is_found_where_half_the_maximum_would_miss_it():
    relevance = map_of((5, 5, 25, 25, 0.9), (50, 30, 70, 50, 0.2))
    faint = [50, 30, 70, 50]
    assert faint in find_boxes(relevance)[:, :4].tolist()


def test_the_best_box_leans_towards_the_mean_of_what_overlaps_it_most():
    inner, outer, other = [20, 10, 50, 40], [16, 8, 56, 44], [62, 10, 78, 30]
    relevance = map_of((*outer, 0.5), (*inner, 0.8), (*other, 0.3))
    boxes = find_boxes(relevance)
    votes = contrast(relevance, np.array([inner, outer])).astype(float) ** 4
    mean = (votes[0] * np.array(inner) + votes[1] * np.array(outer)) / votes.sum()
    best = np.array([inner, outer][int(votes.argmax())])
    np.testing.assert_allclose(boxes[0, :4], best + LEAN * (mean - best), rtol=1e-5)
    assert other in boxes[1:, :4].tolist()


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


def test_a_weak_thing_is_reported_alone_and_not_beside_a_sure_one():
    weak = (50, 30, 70, 50, 0.1)
    alone = find_boxes(map_of(weak, background=0.01))[0]
    threshold = 0.9 * float(alone[4])
    assert alone.tolist() in find_boxes(map_of(weak, background=0.01), threshold=threshold).tolist()
    beside = map_of(weak, (5, 5, 25, 25, 0.9), background=0.01)
    assert alone[:4].tolist() in find_boxes(beside)[:, :4].tolist()
    (only,) = find_boxes(beside, threshold=threshold).tolist()
    assert only[:4] == [5, 5, 25, 25]


def test_neighbours_that_are_about_as_sure_are_all_reported():
    row = [(5 + 25 * number, 20, 20 + 25 * number, 40, 0.8) for number in range(3)]
    found = find_boxes(map_of(*row), threshold=0.5)
    assert sorted(found[:, :4].tolist()) == [list(thing[:4]) for thing in row]


def test_slivers_are_no_boxes():
    relevance = map_of((10, 10, 12, 50, 0.9), (30, 20, 50, 40, 0.6))
    found = find_boxes(relevance)
    assert (np.min(found[:, 2:4] - found[:, :2], axis=1) >= 3).all()
    assert found[0, :4].tolist() == [30, 20, 50, 40]


def test_what_is_cut_off_close_below_its_own_peak_is_doubted():
    relevance = map_of((10, 10, 50, 50, 0.7), (25, 25, 35, 35, 0.8))
    tip = [25, 25, 35, 35]
    (score,) = [box[4] for box in find_boxes(relevance).tolist() if box[:4] == tip]
    expected = chances(TIP_DOUBT * DOUBT * contrast(relevance, np.array([tip])))
    assert score == pytest.approx(expected[0], rel=1e-3)


def test_no_box_is_surer_than_that_its_thing_is_there():
    relevance = map_of((20, 10, 50, 40, 0.8))
    (sure,), (unsure,) = (find_boxes(relevance, presence=presence)[:1] for presence in (1.0, 0.2))
    assert sure[4] > unsure[4] == pytest.approx(chances(np.array([0.2]))[0])
    assert len(find_boxes(relevance, presence=0.2, threshold=float(unsure[4]) + 0.01)) == 0


def test_chances_rise_with_contrast_and_their_inverse_leads_back():
    contrasts = np.linspace(0, 1, 51)
    found = chances(contrasts)
    assert (np.diff(found) > 0).all()
    assert ((found >= 0) & (found < 1)).all()
    assert [contrast_of(float(chance)) for chance in found] == pytest.approx(contrasts, abs=1e-4)
    assert contrast_of(1) > 1


def test_boxes_of_a_map_are_stretched_to_its_picture_and_their_scores_kept():
    found = enlarged(np.array([[10, 20, 30, 40, 0.7]], np.float32), (80, 60), (640, 240))
    np.testing.assert_allclose(found, [[80, 80, 240, 160, 0.7]], rtol=1e-6)


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
    expected = chances(np.array([whole, DOUBT * part]))
    assert [scores[20, 20, 60, 50], scores[20, 20, 30, 30]] == pytest.approx(expected, rel=1e-4)
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


def test_a_threshold_leaves_out_what_scores_less_or_too_little_beside_the_best():
    relevance = np.random.default_rng(2).random((60, 80), np.float32) ** 4
    every = find_boxes(relevance)
    contrasts = np.array([contrast_of(score) for score in every[:, 4].tolist()])
    needed = contrasts * (contrasts / contrasts.max()) ** BESIDE
    for threshold in (0.05, 0.1, float(every[len(every) // 2, 4]) + 1e-5, 0.99):
        kept = find_boxes(relevance, threshold=threshold)
        assert kept.tolist() == every[needed >= contrast_of(threshold)].tolist()


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
    assert around[4] == pytest.approx(chances(0.5 * alone)[0], rel=1e-3)
    assert part[4] > around[4]


def test_of_three_things_in_a_row_the_middle_one_is_not_doubted_for_the_box_around_all():
    relevance = np.full((60, 100), 0.02, np.float32)
    relevance[20:40, 5:95] = 0.3
    for left, value in ((5, 0.9), (40, 0.42), (75, 0.9)):
        relevance[20:40, left : left + 20] = value
    around, middle = [5, 20, 95, 40], [40, 20, 60, 40]
    whole, part = contrast(relevance, np.array([around, middle]))
    assert whole > part
    scores = {tuple(box[:4]): box[4] for box in find_boxes(relevance).tolist()}
    assert scores[tuple(middle)] == pytest.approx(chances(np.array([part]))[0], rel=1e-3)
    assert scores[tuple(around)] == pytest.approx(chances(np.array([DOUBT * whole]))[0], rel=1e-3)
