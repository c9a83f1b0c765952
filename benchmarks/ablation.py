"""What each decision of the localizer is worth: its figures with that one decision undone.

    python benchmarks/ablation.py --data photos --encoder my_encoder:Tower
    python benchmarks/ablation.py --scenes 100

--data is a folder in COCO's layout; all its categories are asked of every photo. Windows are
encoded once for all decisions that leave them as they are. See docs/ablation.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from material import add_material, material

from localize import Localizer, Options, boxes, edges, localizer, relevance
from localize.evaluation import metrics
from localize.evaluation.evaluate import answer_of, figures
from localize.evaluation.samples import Answer, Sample


@dataclass(frozen=True)
class Decision:
    """One decision undone. constants: (module, name, value) put in place of the package's own."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    constants: Sequence[tuple[Any, str, Any]] = ()
    tokens: bool = True


def inside_only(relevance_map: Any, candidates: Any) -> Any:
    """Box scores that do not look at the surrounding: the mean inside."""
    integral = boxes.cv2.integral(relevance_map, sdepth=boxes.cv2.CV_64F)
    areas = (candidates[:, 2:] - candidates[:, :2]).prod(1)
    return (boxes._sums(integral, candidates) / areas).astype(np.float32)


def nothing_stands_out(grids: Any, likeness: Any) -> Any:
    """In place of `distinctness`: leaves maps as they are."""
    return np.ones((likeness.shape[-1], 1, 1), np.float32)


def of_the_distinct_map(relevance_map: Any, threshold: float, plain: Any) -> Any:
    """In place of `find_boxes`: scores boxes in one map alone."""
    return boxes.find_boxes(relevance_map, threshold)


SHARP = (localizer, "find_boxes", of_the_distinct_map)
PLAIN = (localizer, "distinctness", nothing_stands_out)

DECISIONS = (
    Decision("as it is"),
    Decision("no tokens, windows only", tokens=False),
    Decision("likeness not set against the picture's", constants=[PLAIN]),
    Decision("both: windows only, not set against it", constants=[PLAIN], tokens=False),
    Decision("tokens alone", constants=[(relevance, "TOKEN_POWER", 1.0)]),
    Decision("tokens^0.2", constants=[(relevance, "TOKEN_POWER", 0.2)]),
    Decision("tokens^0.6", constants=[(relevance, "TOKEN_POWER", 0.6)]),
    Decision("near-synonyms count as negatives", constants=[(relevance, "SYNONYM", 1.0)]),
    Decision("maps do not follow edges", constants=[(localizer, "follow_edges", lambda m, _: m)]),
    Decision("superpixels share nothing", constants=[(edges, "SHARE", 0.0)]),
    Decision("superpixels share .4", constants=[(edges, "SHARE", 0.4)]),
    Decision("one segmentation", constants=[(edges, "COARSENESS", ((50, 20),))]),
    Decision("boxes at one threshold", options={"boxes": "threshold"}),
    Decision("box score: in the distinct map", constants=[SHARP]),
    Decision("box score: mean inside", constants=[(boxes, "contrast", inside_only)]),
    Decision("box score: inside - ring", constants=[(boxes, "STRENGTH", 1.0)]),
    Decision("box score: root of inside", constants=[(boxes, "STRENGTH", 0.5)]),
    Decision("nested boxes at their full score", constants=[(boxes, "DOUBT", 1.0)]),
    Decision("nested boxes at .7", constants=[(boxes, "DOUBT", 0.7)]),
    Decision("wider ring", constants=[(boxes, "RING", 0.5)]),
    Decision("suppression at IoU 0.3", constants=[(boxes, "OVERLAP", 0.3)]),
    Decision("suppression at IoU 0.5", constants=[(boxes, "OVERLAP", 0.5)]),
    Decision("scales 1 .71 .5 .35, stride 1/2", {"scales": (1, 0.71, 0.5, 0.35), "stride": 0.5}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these decisions alone")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    decisions = [each for each in DECISIONS if not parsed.only or each.name in parsed.only]
    rows = measure(encoder, samples, decisions)
    for row in rows:
        print(
            " | ".join(f"{value:.3f}" if name != "name" else value for name, value in row.items())
        )
    if parsed.json:
        parsed.json.write_text(json.dumps(rows, indent=1))


def measure(encoder: Any, samples: Sequence[Sample], decisions: Sequence[Decision]) -> list[Any]:
    """One row of figures a decision: of all samples, and AP of every second one and of the rest."""
    answers: list[list[Answer]] = [[] for _ in decisions]
    machines = [
        Localizer(encoder, replace(Options(threshold=0), **each.options)) for each in decisions
    ]
    for sample in samples:
        encoded: dict[Any, Any] = {}
        for decision, machine, row in zip(decisions, machines, answers, strict=True):
            windows = (machine.options.scales, machine.options.stride)
            if windows not in encoded:
                encoded[windows] = machine.encode(sample.image)
            row.append(ask(machine, encoded[windows], sample, decision))
    truths = [sample.truth for sample in samples]
    rows = []
    for decision, row in zip(decisions, answers, strict=True):
        whole = figures(truths, row, threshold=Options().threshold)
        found = {"name": decision.name}
        found |= {
            key: whole[key] for key in ("AP50", "AP30", "pointing", "presence_auc", "corloc50")
        }
        for half in (0, 1):
            for iou in (0.5, 0.3):
                ap = metrics.average_precision(truths[half::2], row[half::2], iou)
                found[f"AP{100 * iou:.0f} of half {half + 1}"] = float(np.mean(list(ap.values())))
        rows.append(found)
    return rows


def ask(machine: Localizer, encoded: Any, sample: Sample, decision: Decision) -> Answer:
    """The answer about one encoded picture with one decision undone."""
    # A copy: superpixels are kept with what is encoded, and decisions differ in them.
    encoded = replace(encoded, tokens=encoded.tokens if decision.tokens else None)
    with undone(decision):
        result = machine.locate(encoded, sample.truth.prompts)
    return answer_of(result, encoded.num_crops)


@contextlib.contextmanager
def undone(decision: Decision) -> Iterator[None]:
    """Put a decision's constants in place of the package's own for a while."""
    with contextlib.ExitStack() as stack:
        for module, name, value in decision.constants:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


if __name__ == "__main__":
    main()
