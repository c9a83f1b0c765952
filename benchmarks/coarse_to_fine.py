"""What accuracy is left of a full scan when a budget of its windows is encoded.

    python benchmarks/coarse_to_fine.py --scenes 100 --budget 57
    python benchmarks/coarse_to_fine.py --data photos --encoder my_encoder:Tower --budget 57

Rows: the full scan at --stride, each budget of its windows, and the default options. --data is a
folder in COCO's layout; all its categories are asked of every photo. Every picture is encoded
twice: by the full scan, of whose windows the budgets take theirs, and with the default options.
Boxes of a score below --least are left out everywhere, for time's sake.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from material import add_material, material

from localize import Localizer, Options
from localize.content import content
from localize.evaluation.evaluate import answer_of, figures
from localize.evaluation.samples import Answer, Sample
from localize.localizer import Encoded
from localize.windows import within_budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--stride", type=float, default=0.375, help="default: %(default)s")
    parser.add_argument("--budget", type=int, nargs="+", default=[57], metavar="N")
    parser.add_argument("--least", type=float, default=0.02, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    usual = Options(threshold=parsed.least)
    rows = measure(encoder, samples, replace(usual, stride=parsed.stride), usual, parsed.budget)
    print(
        f"{'':<24}{'crops':>8}{'AP50':>8}{'AP30':>8}{'pointing':>10}{'of crops':>10}{'of AP50':>9}"
    )
    full = rows["full scan"]
    for name, row in rows.items():
        print(
            f"{name:<24}{row['crops_per_image']:>8.1f}{row['AP50']:>8.3f}{row['AP30']:>8.3f}"
            f"{row['pointing']:>10.3f}{row['crops_per_image'] / full['crops_per_image']:>10.2f}"
            f"{row['AP50'] / full['AP50']:>9.3f}"
        )
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=1))


def measure(
    encoder: Any, samples: Sequence[Sample], scan: Options, usual: Options, budgets: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Name -> figures, of the full scan, of each budget of its windows and of the usual options."""
    scanner, default = Localizer(encoder, scan), Localizer(encoder, usual)
    answers: dict[str, list[Answer]] = {}
    for sample in samples:
        whole = scanner.encode(sample.image)
        encoded = {"full scan": whole}
        encoded |= {f"budget of {budget}": part_of(whole, budget) for budget in budgets}
        encoded["default options"] = default.encode(sample.image)
        for name, each in encoded.items():
            result = default.locate(each, sample.truth.prompts)
            answers.setdefault(name, []).append(answer_of(result, each.num_crops))
    truths = [sample.truth for sample in samples]
    return {name: figures(truths, found, found) for name, found in answers.items()}


def part_of(whole: Encoded, budget: int) -> Encoded:
    """What encoding with a budget gives, out of a full scan: the same windows' vectors."""
    grids = within_budget(whole.grids, content(whole.picture.pixels), budget)
    wanted = {(grid.level, corner) for grid in grids for corner in grid.corners}
    windows = [(grid.level, corner) for grid in whole.grids for corner in grid.corners]
    kept = [index for index, window in enumerate(windows) if window in wanted]
    tokens = None if whole.tokens is None else whole.tokens[kept]
    return replace(whole, grids=grids, embeddings=whole.embeddings[kept], tokens=tokens)


if __name__ == "__main__":
    main()
