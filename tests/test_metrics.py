"""The metrics, against plain implementations that follow their definitions word for word."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from localize.boxes import box_iou
from localize.evaluation import metrics
from localize.evaluation.samples import Answer, Truth

NAMES = ("cat", "dog", "kite")


def truth(boxes=(), prompts=NAMES, file="picture"):
    """boxes: (label, xyxy) or (label, xyxy, True) for a crowd."""
    return Truth(
        file=file,
        labels=tuple(box[0] for box in boxes),
        xyxy=np.array([box[1] for box in boxes], float).reshape(-1, 4),
        iscrowd=np.array([len(box) > 2 for box in boxes], bool),
        prompts=prompts,
    )


def answer(boxes=(), presence=(0, 0, 0), peaks=((0, 0), (0, 0), (0, 0))):
    """boxes: (label, score, xyxy)."""
    boxes = sorted(boxes, key=lambda box: -box[1])
    return Answer(
        labels=tuple(box[0] for box in boxes),
        scores=np.array([box[1] for box in boxes], float),
        xyxy=np.array([box[2] for box in boxes], float).reshape(-1, 4),
        presence=np.array(presence, float),
        peaks=np.array(peaks, float),
        crops=1,
        encode_seconds=0.0,
        locate_seconds=0.0,
    )


def random_box(random):
    left, top = random.uniform(0, 60, 2)
    width, height = random.uniform(20, 40, 2)
    return left, top, left + width, top + height


def random_pictures(seed):
    """Twelve pictures; many boxes of the answers are true boxes, shaken."""
    random = np.random.default_rng(seed)
    truths, answers = [], []
    for _ in range(12):
        boxes = [(str(random.choice(NAMES[:2])), random_box(random)) for _ in range(4)]
        if random.random() < 0.4:
            boxes.append((str(random.choice(NAMES[:2])), random_box(random), True))
        found = [
            (label, random.random(), tuple(np.array(xyxy) + random.uniform(-6, 6, 4)))
            for label, xyxy, *_ in boxes
            if random.random() < 0.8
        ]
        found += [(str(random.choice(NAMES)), random.random(), random_box(random)) for _ in NAMES]
        truths.append(truth(boxes))
        answers.append(answer(found, random.random(3).round(1), random.uniform(0, 100, (3, 2))))
    return truths, answers


def plain_iou(a, b, crowd=False):
    """Over a crowd, the share of the found box that lies in it (as in COCO)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / area_a if crowd else common / (area_a + area_b - common)


def plain_average_precision(truths, answers, name, iou):
    found = sorted(
        (
            (score, picture, xyxy)
            for picture, each in enumerate(answers)
            for label, score, xyxy in zip(each.labels, each.scores, each.xyxy, strict=True)
            if label == name
        ),
        key=lambda entry: -entry[0],
    )
    true = {picture: each.boxes_of(name, crowds=False) for picture, each in enumerate(truths)}
    crowds = {
        picture: [
            xyxy
            for label, xyxy, crowd in zip(each.labels, each.xyxy, each.iscrowd, strict=True)
            if label == name and crowd
        ]
        for picture, each in enumerate(truths)
    }
    total = sum(map(len, true.values()))
    taken = set()
    rights = []
    for _, picture, xyxy in found:
        free = [
            (plain_iou(xyxy, box), row)
            for row, box in enumerate(true[picture])
            if (picture, row) not in taken
        ]
        best, row = max(free, default=(0, None))
        if best >= iou:
            taken.add((picture, row))
            rights.append(True)
        elif not any(plain_iou(xyxy, box, crowd=True) >= iou for box in crowds[picture]):
            rights.append(False)
    hits = np.cumsum(rights)
    curve = [(hit / total, hit / (rank + 1)) for rank, hit in enumerate(hits)]
    return np.mean(
        [
            max((precision for recall, precision in curve if recall >= level), default=0)
            for level in np.linspace(0, 1, 101)
        ]
    )


@pytest.mark.parametrize("iou", [0.3, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_agrees_with_its_definition(seed, iou):
    truths, answers = random_pictures(seed)
    ours = metrics.average_precision(truths, answers, iou)
    assert ours.keys() == {"cat", "dog"}  # no picture has a kite
    for name, value in ours.items():
        assert 0 < value < 1
        assert value == pytest.approx(plain_average_precision(truths, answers, name, iou))


def test_the_right_boxes_alone_have_an_average_precision_of_one():
    truths = [truth([("cat", (0, 0, 10, 10)), ("cat", (20, 0, 30, 10))])]
    answers = [answer([("cat", 0.2, (0, 0, 10, 10)), ("cat", 0.1, (20, 0, 30, 10))])]
    assert metrics.average_precision(truths, answers, 0.5) == {"cat": pytest.approx(1)}


def test_no_boxes_at_all_have_an_average_precision_of_zero():
    truths = [truth([("cat", (0, 0, 10, 10))])]
    assert metrics.average_precision(truths, [answer()], 0.5) == {"cat": 0}


def test_the_second_box_on_one_thing_is_wrong():
    truths = [truth([("cat", (0, 0, 10, 10)), ("cat", (50, 0, 60, 10))])]
    twice = [("cat", 0.9, (0, 0, 10, 10)), ("cat", 0.8, (0, 0, 10, 9))]
    rest = [("cat", 0.7, (50, 0, 60, 10))]
    once = metrics.average_precision(truths, [answer(twice[:1] + rest)], 0.5)["cat"]
    assert metrics.average_precision(truths, [answer(twice + rest)], 0.5)["cat"] < once


def test_a_box_on_a_crowd_neither_counts_nor_hurts():
    truths = [truth([("cat", (0, 0, 10, 10)), ("cat", (20, 0, 80, 60), True)])]
    answers = [answer([("cat", 0.9, (30, 10, 40, 20)), ("cat", 0.8, (0, 0, 10, 10))])]
    assert metrics.average_precision(truths, answers, 0.5)["cat"] == pytest.approx(1)


def test_only_the_hundred_best_boxes_of_a_name_in_a_picture_count():
    truths = [truth([("cat", (0, 0, 10, 10))])]
    wrong = [("cat", 0.9, (50, 50, 60, 60))] * 99
    right = ("cat", 0.5, (0, 0, 10, 10))
    assert metrics.average_precision(truths, [answer([*wrong, right])], 0.5)["cat"] > 0
    assert metrics.average_precision(truths, [answer([*wrong, wrong[0], right])], 0.5)["cat"] == 0


def test_pycocotools_is_kept_quiet(capsys):
    metrics.average_precision(*random_pictures(0), 0.5)
    assert capsys.readouterr().out == ""


def test_without_pycocotools_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ImportError, match=r"pip install 'clip-localize\[evaluate\]'"):
        metrics.load_pycocotools()


@pytest.mark.parametrize("seed", range(5))
def test_presence_auc_is_the_share_of_pairs_in_the_right_order(seed):
    truths, answers = random_pictures(seed)
    present = [p for t, a in zip(truths, answers, strict=True) for p in a.presence[t.present()]]
    absent = [p for t, a in zip(truths, answers, strict=True) for p in a.presence[~t.present()]]
    wins = sum((p > a) + (p == a) / 2 for p in present for a in absent)
    assert any(p == a for p in present for a in absent)  # ties are exercised
    expected = wins / len(present) / len(absent)
    assert metrics.presence_auc(truths, answers) == pytest.approx(expected)


def test_presence_auc_needs_both_present_and_absent_prompts():
    everything = truth([(name, (0, 0, 1, 1)) for name in NAMES])
    assert metrics.presence_auc([everything], [answer()]) is None
    assert metrics.presence_auc([truth()], [answer()]) is None


@pytest.mark.parametrize("seed", range(3))
def test_iou_agrees_with_counting_pixels(seed):
    random = np.random.default_rng(seed)
    corners = random.integers(0, 20, (12, 2))
    boxes = np.concatenate([corners, corners + random.integers(1, 15, (12, 2))], axis=1)

    def pixels(box):
        drawn = np.zeros((40, 40), bool)
        drawn[box[1] : box[3], box[0] : box[2]] = True
        return drawn

    counted = [
        [(pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum() for b in boxes[5:]]
        for a in boxes[:5]
    ]
    np.testing.assert_allclose(box_iou(boxes[:5] * 1.0, boxes[5:] * 1.0), counted)


def test_pointing_hits_where_the_peak_is_in_any_box_of_the_prompt():
    truths = [truth([("cat", (0, 0, 10, 10)), ("cat", (50, 50, 60, 60)), ("dog", (0, 0, 20, 20))])]
    answers = [answer(peaks=[(55, 55), (21, 5), (0, 0)])]  # the kite is absent
    assert metrics.pointing_hits(truths, answers) == {"cat": [True], "dog": [False]}


def test_pointing_at_a_crowd_is_a_hit():
    truths = [truth([("cat", (40, 40, 90, 90), True)])]
    answers = [answer(peaks=[(50, 50), (0, 0), (0, 0)])]
    assert metrics.pointing_hits(truths, answers) == {"cat": [True]}


def test_corloc_judges_the_best_box_of_a_name_only():
    truths = [truth([("cat", (0, 0, 10, 10))])] * 3
    right, wrong = (0, 0, 10, 8), (0, 0, 10, 4)
    answers = [
        answer([("cat", 0.9, right), ("cat", 0.5, wrong), ("dog", 1, wrong)]),
        answer([("cat", 0.5, right), ("cat", 0.9, wrong)]),
        answer(),
    ]
    assert metrics.corloc_hits(truths, answers, 0.5) == {"cat": [True, False, False]}


def test_corloc_leaves_out_names_of_which_there_is_only_a_crowd():
    truths = [truth([("cat", (0, 0, 10, 10), True)])]
    assert metrics.corloc_hits(truths, [answer([("cat", 1, (0, 0, 10, 10))])], 0.5) == {}


def test_shares_are_over_pairs_not_names():
    assert metrics.share({"cat": [True, True, True], "dog": [False]}) == 0.75
    assert metrics.share({}) is None


def test_false_boxes_are_those_of_absent_prompts():
    truths = [truth([("cat", (0, 0, 10, 10))]), truth([("dog", (0, 0, 10, 10))])]
    somewhere = (50, 50, 60, 60)
    answers = [
        answer([("cat", 0.9, somewhere), ("dog", 0.5, somewhere), ("dog", 0.4, somewhere)]),
        answer([("dog", 0.3, somewhere), ("kite", 0.8, somewhere)]),
    ]
    assert metrics.false_boxes(truths, answers) == 3 / 4
    everything = truth([(name, somewhere) for name in NAMES])
    assert metrics.false_boxes([everything], answers[:1]) is None


def plain_reported(truths, answers, iou):
    """Precision, recall and cgF1, pair by pair of picture and prompt."""
    right = boxes = things = right_there = boxes_there = 0
    cells = {(there, said): 0 for there in (False, True) for said in (False, True)}
    for each, found in zip(truths, answers, strict=True):
        for prompt in each.prompts:
            mine = [
                (score, xyxy)
                for label, score, xyxy in zip(found.labels, found.scores, found.xyxy, strict=True)
                if label == prompt
            ]
            own = zip(each.labels, each.xyxy, each.iscrowd, strict=True)
            own = [(xyxy, crowd) for label, xyxy, crowd in own if label == prompt]
            free = [xyxy for xyxy, crowd in own if not crowd]
            things += len(free)
            cells[bool(own), bool(mine)] += 1
            for _, xyxy in sorted(mine, key=lambda box: -box[0]):
                best = max(free, key=lambda thing: plain_iou(xyxy, thing), default=None)
                if best is not None and plain_iou(xyxy, best) >= iou:
                    free = [thing for thing in free if thing is not best]
                    right += 1
                elif any(plain_iou(xyxy, thing, True) >= iou for thing, crowd in own if crowd):
                    continue
                boxes += 1
                boxes_there += bool(own)
            right_there = right
    f1 = 2 * right_there / (boxes_there + things)
    (tn, fp), (fn, tp) = [[cells[there, said] for said in (False, True)] for there in (False, True)]
    matthews = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    return {"precision": right / boxes, "recall": right / things, "cgF1": 100 * f1 * matthews}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iou", [0.3, 0.5])
def test_reported_boxes_are_judged_as_by_going_through_pictures_and_prompts(seed, iou):
    truths, answers = random_pictures(seed)
    answers = [
        answer(
            [
                box
                for box in zip(each.labels, each.scores, each.xyxy, strict=True)
                if box[1] >= 0.6 and not (box[0] == "kite" and number % 2)
            ]
        )
        for number, each in enumerate(answers)
    ]
    expected = plain_reported(truths, answers, iou)
    assert metrics.reported_boxes(truths, answers, iou) == pytest.approx(expected)


def test_two_boxes_on_one_thing_are_one_right_one_and_one_wrong_one():
    truths = [truth([("cat", (0, 0, 10, 10))])]
    answers = [answer([("cat", 0.9, (0, 0, 10, 9)), ("cat", 0.8, (0, 0, 10, 10))])]
    found = metrics.reported_boxes(truths, answers, 0.5)
    assert found["precision"] == 0.5
    assert found["recall"] == 1
    assert found["cgF1"] == pytest.approx(100 * 2 / 3)


def test_reported_boxes_without_any_prompt_there_or_without_a_box_have_no_figure():
    nothing = metrics.reported_boxes([truth()], [answer()], 0.5)
    assert nothing == {"precision": None, "recall": None, "cgF1": None}
    silent = metrics.reported_boxes([truth([("cat", (0, 0, 9, 9))])], [answer()], 0.5)
    assert silent == {"precision": None, "recall": 0, "cgF1": 0}


def segmented(seed):
    """Pictures of 12 x 9 pixels: what each pixel shows, the truth, and maps of three prompts."""
    random = np.random.default_rng(seed)
    for _ in range(5):
        boxes = [(str(random.choice(NAMES)), (0, 0, 1, 1)) for _ in range(3)]
        shown = random.integers(-1, 3, (9, 12)).astype(np.int16)
        maps = random.random((3, 9, 12)).astype(np.float32) * random.choice([0.12, 1.0])
        yield shown, truth(boxes), maps


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pixels_are_judged_as_by_going_through_them_one_by_one(seed, background):
    own, given = {}, {}
    truths, answers = [], []
    for shown, known, maps in segmented(seed):
        truths.append(known)
        pixels = metrics.count_pixels(shown, known, iter(maps))
        answers.append(replace(answer(), pixels=pixels))
        for y in range(9):
            for x in range(12):
                thing = int(shown[y, x])
                true = "nothing" if thing < 0 else known.labels[thing]
                if true == "nothing" and not background:
                    continue
                said = NAMES[max(range(3), key=lambda row: maps[row, y, x])]
                if background and maps[:, y, x].max() < metrics.BACKGROUND:
                    said = "nothing"
                own.setdefault(true, set()).add((len(truths), x, y))
                given.setdefault(said, set()).add((len(truths), x, y))
    expected = {
        name: len(pixels & given.get(name, set())) / len(pixels | given.get(name, set()))
        for name, pixels in own.items()
    }
    found = metrics.pixel_iou(truths, answers, background)
    assert {name or "nothing": iou for name, iou in found.items()} == pytest.approx(expected)


def test_maps_that_are_the_masks_have_an_iou_of_one():
    known = truth([("cat", (0, 0, 4, 4)), ("kite", (4, 0, 8, 4))])
    shown = np.full((4, 10), -1, np.int16)
    shown[:, :4], shown[:, 4:8] = 0, 1
    maps = np.stack([shown == 0, shown == 5, shown == 1]).astype(np.float32)
    said = replace(answer(), pixels=metrics.count_pixels(shown, known, maps))
    assert metrics.pixel_iou([known], [said], background=True) == {"cat": 1, "kite": 1, "": 1}


def test_without_masks_there_is_no_figure_of_pixels():
    assert metrics.pixel_iou([truth()], [answer()], background=False) == {}
