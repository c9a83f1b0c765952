"""What accuracy even grids of more and fewer crops have: the curve that `--budget` goes by.

    python benchmarks/dial.py --data photos --encoder my_encoder:Tower
    python benchmarks/dial.py --scenes 100

One line for each of `localize.windows.DIAL`. --data is a folder in COCO's layout; all its
categories are asked of every photo.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from material import add_material, material

from localize import Localizer, Options
from localize.evaluation.evaluate import ask, figures
from localize.windows import DIAL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--most", type=int, default=1000, help="crops; default: %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    samples = list(samples)
    truths = [sample.truth for sample in samples]
    rows = []
    for scales, stride in DIAL:
        options = Options(scales=scales, stride=stride, threshold=0)
        answers = [ask(Localizer(encoder, options), sample)[1] for sample in samples]
        found = figures(truths, answers, answers)
        rows.append({"scales": scales, "stride": stride} | found)
        print(
            f"{' '.join(map(str, scales)):<24}{stride:>6} {found['crops_per_image']:>7.1f} crops  "
            f"AP50 {found['AP50']:.3f}  AP30 {found['AP30']:.3f}  pointing {found['pointing']:.3f}"
            f"  presence AUC {found['presence_auc']:.3f}  {found['seconds_per_image']:.2f} s",
            flush=True,
        )
        if found["crops_per_image"] > parsed.most:
            break
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
