"""How well presence tells present from absent names, by the size of the largest thing of a name.

    python benchmarks/presence_by_size.py --data photos --encoder my_encoder:Tower

--data is a folder in COCO's layout. Each row compares the present names whose largest box takes
that share of its photo with all absent ones: the area under the ROC curve.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from localize import Localizer, Options
from localize.evaluation import metrics
from localize.evaluation.coco import read_coco
from localize.evaluation.evaluate import ask, load_object
from localize.evaluation.samples import Answer, Sample, Truth
from localize.images import read_image

EDGES = (0, 0.003, 0.01, 0.03, 0.1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="a folder in COCO's layout")
    parser.add_argument("--encoder", required=True, metavar="MODULE:OBJECT")
    parsed = parser.parse_args()
    # No box is drawn at threshold 1, so that only presence takes time.
    machine = Localizer(load_object(parsed.encoder), Options(threshold=1.0))
    samples = list(read_coco(parsed.data))
    answers = [ask(machine, sample)[1] for sample in samples]
    shares = [largest(sample) for sample in samples]
    print("share of the photo | names | presence AUC")
    for low, high in pairwise(EDGES):
        kept = [(share == 0) | ((share > low) & (share <= high)) for share in shares]
        parts = [only(*row) for row in zip(samples, answers, kept, strict=True)]
        truths, found = zip(*parts, strict=True)
        count = sum(int(truth.present().sum()) for truth in truths)
        print(f"{low} to {high} | {count} | {metrics.presence_auc(truths, found):.3f}")


def largest(sample: Sample) -> np.ndarray:
    """The share of the photo that the largest box of each prompt takes, 0 where it is absent."""
    height, width = read_image(sample.image).pixels.shape[:2]
    areas = [
        np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).max(initial=0)
        for boxes in map(sample.truth.boxes_of, sample.truth.prompts)
    ]
    return np.array(areas) / (width * height)


def only(sample: Sample, answer: Answer, kept: np.ndarray) -> tuple[Truth, Answer]:
    """What was asked and answered of the kept prompts."""
    prompts = tuple(np.array(sample.truth.prompts)[kept])
    return replace(sample.truth, prompts=prompts), replace(answer, presence=answer.presence[kept])


if __name__ == "__main__":
    main()
