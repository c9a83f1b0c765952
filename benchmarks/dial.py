"""What accuracy even grids of more and fewer crops have: the curve that `--budget` goes by.

    python benchmarks/dial.py --scenes 40 --seed 60000
    python benchmarks/dial.py --data photos --encoder my_encoder:Tower --every 2

One line for each of `CANDIDATES`; `localize.windows.DIAL` keeps those that no cheaper one beats.
--data is a folder in COCO's layout; all its categories are asked of every photo. Each picture is
taken with all grids in turn, so that a machine that others use too slows none more than another;
times are CPU time of the process, encode and locate together, the median over the pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from material import add_material, material
from tqdm import tqdm

from localize import Localizer, Options
from localize.evaluation.evaluate import ask, figures

CANDIDATES = (
    ((1.0,), 1.0),
    ((1.0, 0.63), 0.75),
    ((1.0, 0.63, 0.4), 0.75),
    ((1.0, 0.63, 0.4, 0.25), 1.0),
    ((1.0, 0.63, 0.4, 0.25), 0.75),
    ((1.0, 0.63, 0.4, 0.25), 0.5),
    ((1.0, 0.63, 0.4, 0.25, 0.16), 0.75),
    ((1.0, 0.63, 0.4, 0.25, 0.16), 0.375),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th picture only")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    samples = list(samples)[:: parsed.every]
    localizers = [
        Localizer(encoder, Options(scales=scales, stride=stride, threshold=0))
        for scales, stride in CANDIDATES
    ]
    answers, seconds = [], []
    for sample in tqdm(samples, unit="picture"):
        for localizer in localizers:
            started = time.process_time()
            answers.append(ask(localizer, sample)[1])
            seconds.append(time.process_time() - started)
    medians = np.median(np.reshape(seconds, (-1, len(CANDIDATES))), axis=0)
    truths = [sample.truth for sample in samples]
    rows = []
    for number, (scales, stride) in enumerate(CANDIDATES):
        of_grid = answers[number :: len(CANDIDATES)]
        found = figures(truths, of_grid, of_grid) | {"cpu_seconds": float(medians[number])}
        rows.append({"scales": scales, "stride": stride} | found)
        print(
            f"{' '.join(map(str, scales)):<24}{stride:>6} {found['crops_per_image']:>7.1f} crops  "
            f"AP50 {found['AP50']:.3f}  AP30 {found['AP30']:.3f}  pointing {found['pointing']:.3f}"
            f"  presence AUC {found['presence_auc']:.3f}  {medians[number]:.2f} s of CPU"
        )
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
