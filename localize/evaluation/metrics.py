"""How good answers are: average precision and other figures of ranked lists, and of reported boxes.

Knows truths and answers as plain data; knows nothing of pictures, models or files. Every figure is
None where it has nothing to be counted over (no present prompt, no absent prompt).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from localize.boxes import box_iou
from localize.evaluation.samples import Answer, Truth

MAX_BOXES = 100  # the best boxes of one name in one picture that count, as in COCO
BACKGROUND = 0.5
"""A pixel on which no map reaches this relevance is the background's: of .03 to .6 the best on 16
scenes."""


def load_pycocotools() -> tuple[Any, Any]:
    """The classes COCO and COCOeval of pycocotools, an optional dependency.

    Raises ImportError, naming the extra to install, where it is missing.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            "evaluation needs pycocotools: install it with pip install 'clip-localize[evaluate]'"
        ) from error
    return COCO, COCOeval


def average_precision(
    truths: Sequence[Truth], answers: Sequence[Answer], iou: float
) -> dict[str, float]:
    """COCO's average precision of each name that has a true box, by pycocotools.

    A box is right where its IoU with a true box of its name that no better box has taken is at
    least ``iou``; precision is averaged at 101 points of recall over boxes of any size, the best
    ``MAX_BOXES`` a picture (Lin et al., arXiv 1405.0312). Crowd boxes neither count nor hurt. AP is
    made for long ranked lists: give it answers with their weak boxes, not those cut at a threshold.

    Raises ImportError where pycocotools is missing.
    """
    coco, coco_eval = load_pycocotools()
    names = sorted({name for truth in truths for name in (*truth.labels, *truth.prompts)})
    number = {name: index for index, name in enumerate(names, start=1)}
    dataset = {
        "info": {},
        "images": [{"id": index} for index in range(1, len(truths) + 1)],
        "categories": [{"id": number[name], "name": name} for name in names],
        "annotations": list(_truth_records(truths, number)),
    }
    found = list(_answer_records(answers, number))
    if not dataset["annotations"]:
        return {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        known = coco()
        known.dataset = dataset
        known.createIndex()
        run = coco_eval(known, known.loadRes(found) if found else coco(), "bbox")
        run.params.imgIds = sorted(known.getImgIds())
        run.params.catIds = sorted(known.getCatIds())
        run.params.iouThrs = np.array([iou])
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.params.maxDets = [MAX_BOXES]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][0, :, :, 0, 0]  # (recalls, names); -1: no true box
    return {
        name: float(precision[:, column].mean())
        for column, name in enumerate(names)
        if precision[0, column] >= 0
    }


def pointing_hits(truths: Sequence[Truth], answers: Sequence[Answer]) -> dict[str, list[bool]]:
    """For each name, one entry a picture that has it: is the map's peak inside one of its boxes?

    The pointing game of Zhang et al., "Top-down Neural Attention by Excitation Backprop" (arXiv
    1608.00507), but without its tolerance of 15 pixels. Crowd boxes are boxes here.
    """
    hits: dict[str, list[bool]] = {}
    for truth, answer in zip(truths, answers, strict=True):
        for row in np.flatnonzero(truth.present()):
            name, (x, y) = truth.prompts[row], answer.peaks[row]
            boxes = truth.boxes_of(name)
            inside = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y)
            hits.setdefault(name, []).append(bool(np.any(inside & (y <= boxes[:, 3]))))
    return hits


def corloc_hits(
    truths: Sequence[Truth], answers: Sequence[Answer], iou: float
) -> dict[str, list[bool]]:
    """For each name, one entry a picture that has it: does its best box reach ``iou`` with a truth?

    CorLoc of Deselaers et al., "Weakly Supervised Localization and Learning with Generic
    Knowledge" (IJCV 2012). Names of which a picture shows crowds only are left out.
    """
    hits: dict[str, list[bool]] = {}
    for truth, answer in zip(truths, answers, strict=True):
        for row in np.flatnonzero(truth.present()):
            name = truth.prompts[row]
            boxes = truth.boxes_of(name, crowds=False)
            if len(boxes):
                best = [row for row, label in enumerate(answer.labels) if label == name][:1]
                reached = box_iou(answer.xyxy[best], boxes) >= iou
                hits.setdefault(name, []).append(bool(reached.any()))
    return hits


def share(hits: dict[str, list[bool]]) -> float | None:
    """Share of true entries over all pairs of picture and name: frequent names weigh more."""
    entries = [hit for name in hits.values() for hit in name]
    return float(np.mean(entries)) if entries else None


def presence_auc(truths: Sequence[Truth], answers: Sequence[Answer]) -> float | None:
    """Chance that a present prompt's presence exceeds an absent one's, over all pictures at once.

    The area under the ROC curve by the Mann-Whitney statistic; equal values count one half.
    """
    present = np.concatenate([np.zeros(0, bool), *(truth.present() for truth in truths)])
    ranks = rankdata(np.concatenate([np.zeros(0), *(answer.presence for answer in answers)]))
    positives, negatives = int(present.sum()), int((~present).sum())
    if not positives or not negatives:
        return None
    rank_sum = ranks[present].sum() - positives * (positives + 1) / 2
    return float(rank_sum / (positives * negatives))


def unknown_presence(truths: Sequence[Truth], answers: Sequence[Answer]) -> float | None:
    """Median presence of the prompts that mean nothing to the model, over all pictures at once."""
    found = [
        sure
        for truth, answer in zip(truths, answers, strict=True)
        for prompt, sure in zip(truth.prompts, answer.presence, strict=True)
        if prompt in truth.unknown
    ]
    return float(np.median(found)) if found else None


def reported_boxes(
    truths: Sequence[Truth], answers: Sequence[Answer], iou: float
) -> dict[str, float | None]:
    """How good the boxes are that a user sees: ``precision``, ``recall`` and ``cgF1``.

    answers: the boxes that are reported, and no others.

    precision: share of all boxes, those of absent prompts included, that are right: see
    `are_right`. recall: share of the true boxes of the prompts asked that a right box has found.
    Crowds are no true boxes, and boxes on them are left out.

    cgF1, of SAM 3 (Carion et al., arXiv 2511.16719), in [-100, 100]: 100 times the F1 of the boxes
    of present prompts, counted over all pictures at once, times the correlation of Matthews of
    "the prompt has a box" with "it is there", over all pairs of a picture and a prompt. SAM 3's
    figure is the mean over IoUs of .5 to .95; this one is of one IoU. None where there is no
    present prompt or no absent one.
    """
    judged = [are_right(*pair, iou) for pair in zip(truths, answers, strict=True)]
    right = sum(int((each == 1).sum()) for each in judged)
    wrong = sum(int((each == 0).sum()) for each in judged)
    wrong_of_absent = 0
    things = 0
    there: list[bool] = []
    has_box: list[bool] = []
    for truth, answer in zip(truths, answers, strict=True):
        present = truth.present()
        absent = {truth.prompts[row] for row in np.flatnonzero(~present)}
        wrong_of_absent += sum(label in absent for label in answer.labels)
        things += sum(len(truth.boxes_of(prompt, crowds=False)) for prompt in truth.prompts)
        there.extend(present.tolist())
        has_box.extend(prompt in answer.labels for prompt in truth.prompts)
    f1 = 2 * right / max(right + wrong - wrong_of_absent + things, 1)
    correlation = _matthews(np.array(there), np.array(has_box))
    return {
        "precision": right / (right + wrong) if right + wrong else None,
        "recall": right / things if things else None,
        "cgF1": None if correlation is None or not things else 100 * f1 * correlation,
    }


def are_right(truth: Truth, answer: Answer, iou: float) -> npt.NDArray[np.float64]:
    """For each box of an answer 1 where it is right, 0 where it is wrong, NaN where it is neither.

    As COCO matches them: best first, a box takes the true box of its name that it overlaps most
    among those that no better box has taken, and is right where their IoU is at least ``iou``. One
    that is not right and lies in a crowd of its name, by at least that part of its area, is
    neither.
    """
    judged = np.zeros(len(answer.labels))
    for name in set(answer.labels):
        rows = [row for row, label in enumerate(answer.labels) if label == name]
        things = truth.boxes_of(name, crowds=False)
        overlaps = box_iou(answer.xyxy[rows], things)
        crowded = _most_inside(answer.xyxy[rows], truth.crowds_of(name)) >= iou
        for row, each, in_crowd in zip(rows, overlaps, crowded, strict=True):
            if len(things) and each.max() >= iou:
                judged[row] = 1
                overlaps[:, each.argmax()] = -1
            elif in_crowd:
                judged[row] = np.nan
    return judged


def _most_inside(boxes: npt.NDArray[np.float64], crowds: npt.NDArray[np.float64]) -> Any:
    """The largest part of each box (N, 4) that lies in one of the crowds (M, 4): (N,)."""
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=-1)
    return np.max(inside, axis=1, initial=0) / np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _matthews(truth: npt.NDArray[np.bool_], said: npt.NDArray[np.bool_]) -> float | None:
    """The correlation of two lists of yes and no.

    0 where the second is all yes or all no, None where the first is.
    """
    if truth.all() or not truth.any():
        return None
    if said.all() or not said.any():
        return 0.0
    return float(np.corrcoef(truth, said)[0, 1])


def count_pixels(
    shown: npt.NDArray[np.int16], truth: Truth, maps: Iterable[npt.NDArray[np.float32]]
) -> npt.NDArray[np.int64]:
    """How the pixels of one picture are told apart by its maps: int64 (2, P + 1, 3).

    shown: int16 (H, W), which of the truth's boxes each pixel belongs to, -1 for none.
    maps: of the P prompts in their order, each float32 (H, W); taken one at a time.

    A pixel is given to the prompt whose map is highest there. For each prompt and, last, the
    background, the three numbers are the pixels that are truly its own, those that are given to
    it, and those that are both. First over the pixels of things alone; second over all pixels,
    where those on which no map reaches `BACKGROUND` are given to the background.
    """
    row = {prompt: number for number, prompt in enumerate(truth.prompts)}
    background = len(row)
    # The last entry is what -1 takes.
    rows = np.array([*(row.get(label, background) for label in truth.labels), background])
    true = rows[shown]
    best = np.full(shown.shape, -1, np.float32)
    given = np.full(shown.shape, background)
    for number, relevance in enumerate(maps):
        higher = relevance > best
        best[higher], given[higher] = relevance[higher], number
    things = true != background
    return np.stack(
        [
            _own_given_both(true[things], given[things], background),
            _own_given_both(true, np.where(best >= BACKGROUND, given, background), background),
        ]
    )


def _own_given_both(
    true: npt.NDArray[np.int64], given: npt.NDArray[np.int64], last: int
) -> npt.NDArray[np.int64]:
    """Pixels of each class 0 to `last`: truly its own, given to it, and both, (last + 1, 3)."""
    counts = [
        np.bincount(pixels.ravel(), minlength=last + 1)
        for pixels in (true, given, true[true == given])
    ]
    return np.stack(counts, axis=1).astype(np.int64)


def pixel_iou(
    truths: Sequence[Truth], answers: Sequence[Answer], background: bool
) -> dict[str, float]:
    """Intersection over union, in pixels of all pictures at once, of each name that has some.

    both / (own + given - both) of `count_pixels`: the IU of Long et al., "Fully Convolutional
    Networks for Semantic Segmentation" (arXiv 1411.4038), whose mean over the classes is the mean
    IoU. Without ``background`` over pixels of things; with it over all, and the background is a
    class, here under the name "". Pictures without masks are left out.
    """
    totals: dict[str, npt.NDArray[np.int64]] = {}
    for truth, answer in zip(truths, answers, strict=True):
        if answer.pixels is not None:
            names = (*truth.prompts, "")
            for name, counts in zip(names, answer.pixels[int(background)], strict=True):
                totals[name] = totals.get(name, 0) + counts
    return {
        name: float(both / (own + given - both))
        for name, (own, given, both) in totals.items()
        if own
    }


def false_boxes(
    truths: Sequence[Truth], answers: Sequence[Answer], unknown: bool = False
) -> float | None:
    """Boxes drawn for absent prompts, per absent prompt asked.

    Absent are the names that are not in their picture or, with ``unknown``, the unknown prompts.
    """
    asked = drawn = 0
    for truth, answer in zip(truths, answers, strict=True):
        names = {truth.prompts[row] for row in np.flatnonzero(~truth.present())}
        absent = set(truth.unknown) if unknown else names - set(truth.unknown)
        asked += len(absent)
        drawn += sum(label in absent for label in answer.labels)
    return float(drawn) / asked if asked else None


def _truth_records(truths: Sequence[Truth], number: dict[str, int]) -> Iterator[dict[str, Any]]:
    """True boxes as COCO annotations; ids start at 1, since pycocotools takes 0 for unmatched."""
    rows = (
        (image, label, box, crowd)
        for image, truth in enumerate(truths, start=1)
        for label, box, crowd in zip(truth.labels, truth.xyxy, truth.iscrowd, strict=True)
    )
    for index, (image, label, box, crowd) in enumerate(rows, start=1):
        yield {
            "id": index,
            "image_id": image,
            "category_id": number[label],
            "bbox": _xywh(box),
            "area": float(np.prod(box[2:] - box[:2])),
            "iscrowd": int(crowd),
        }


def _answer_records(answers: Sequence[Answer], number: dict[str, int]) -> Iterator[dict[str, Any]]:
    for image, answer in enumerate(answers, start=1):
        for label, score, box in zip(answer.labels, answer.scores, answer.xyxy, strict=True):
            yield {
                "image_id": image,
                "category_id": number[label],
                "bbox": _xywh(box),
                "score": float(score),
            }


def _xywh(xyxy: npt.NDArray[np.float64]) -> list[float]:
    return [*map(float, xyxy[:2]), *map(float, xyxy[2:] - xyxy[:2])]
