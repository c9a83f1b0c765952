"""What each decision of the localizer is worth: its figures with that one decision undone.

    python benchmarks/ablation.py --data photos --encoder my_encoder:Tower
    python benchmarks/ablation.py --scenes 100

--data is a folder in COCO's layout; all its categories are asked of every photo. Windows are
encoded once for all decisions that leave them as they are. See docs/ablation.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from material import add_material, material

from localize import Localizer, Options, boxes, edges, localizer, relevance
from localize.encoders import tokens
from localize.evaluation import metrics
from localize.evaluation.evaluate import answer_of, figures
from localize.evaluation.samples import Answer, Sample


@dataclass(frozen=True)
class Decision:
    """One decision undone.

    constants: (module, name, value) put in place of the package's own.
    reader: makes the reader of tokens that a CLIP-like vision transformer has in place of its own;
        rows with one are left out for encoders of other kinds.
    token_scale: the tokens' logit scale, a share of the pooled vector's.
    before, afterwards: what is done to what is encoded, and to the result.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    constants: Sequence[tuple[Any, str, Any]] = ()
    tokens: bool = True
    reader: Callable[[Any], tokens.TokenReader] | None = None
    token_scale: float | None = None
    before: Callable[[Any], Any] | None = None
    afterwards: Callable[[Localizer, Any, Any], Any] | None = None


def inside_only(relevance_map: Any, candidates: Any) -> Any:
    """Box scores that do not look at the surrounding: the mean inside."""
    integral = boxes.cv2.integral(relevance_map, sdepth=boxes.cv2.CV_64F)
    areas = (candidates[:, 2:] - candidates[:, :2]).prod(1)
    return (boxes._sums(integral, candidates) / areas).astype(np.float32)


def nothing_stands_out(maps: Any, grids: Any, likeness: Any) -> Any:
    """In place of `distinct`: leaves maps as they are."""
    return maps


def of_the_distinct_map(relevance_map: Any, plain: Any, presence: float, threshold: float) -> Any:
    """In place of `find_boxes`: scores boxes in one map alone."""
    return boxes.find_boxes(relevance_map, None, presence, threshold)


def unmended(encoder: Any) -> tokens.TokenReader:
    """The re-wired block with its high-norm patches as they are."""
    read = encoder._read_tokens

    def read_as_is() -> torch.Tensor:
        with mock.patch.object(tokens, "mended", lambda patches: patches):
            return read()

    return read_as_is


def plain_block(encoder: Any) -> tokens.TokenReader:
    """The last block as it is: its patches go through all that the class token goes through."""
    block, finish = _last_block(encoder)
    return tokens.EachAlone(block, finish, prefix=1, of_output=True)


def values_alone(encoder: Any) -> tokens.TokenReader:
    """The last block's value path alone, as in MaskCLIP (arXiv 2112.01071)."""
    block, finish = _last_block(encoder)
    return tokens.EachAlone(block, tokens.chain(_values(block), finish), prefix=1)


def values_and_mlp(encoder: Any) -> tokens.TokenReader:
    """The last block with its values in place of its attention: residual and MLP stay."""
    block, finish = _last_block(encoder)
    think = tokens.residual(block.layer_norm2, block.mlp)
    steps = tokens.chain(tokens.residual(_values(block)), think, finish)
    return tokens.EachAlone(block, steps, prefix=1)


def _values(block: Any) -> tokens.Step:
    attention = block.self_attn
    return tokens.chain(block.layer_norm1, attention.v_proj, attention.out_proj)


def _last_block(encoder: Any) -> tuple[Any, tokens.Step]:
    """The last block of a CLIP-like vision transformer, and what follows it."""
    model = encoder._model
    tower = model.vision_model
    return tower.encoder.layers[-1], tokens.chain(tower.post_layernorm, model.visual_projection)


SHARP = (localizer, "find_boxes", of_the_distinct_map)
PLAIN = (localizer, "distinct", nothing_stands_out)

DECISIONS = (
    Decision("as it is"),
    Decision("no tokens, windows only", tokens=False),
    Decision("likeness not set against the picture's", constants=[PLAIN]),
    Decision("both: windows only, not set against it", constants=[PLAIN], tokens=False),
    Decision("tokens alone", constants=[(relevance, "TOKEN_POWER", 1.0)]),
    Decision("tokens^0.2", constants=[(relevance, "TOKEN_POWER", 0.2)]),
    Decision("tokens^0.6", constants=[(relevance, "TOKEN_POWER", 0.6)]),
    Decision("token scale: a quarter of the windows'", token_scale=0.25),
    Decision("token scale: .4 of the windows'", token_scale=0.4),
    Decision("token scale: .7 of the windows'", token_scale=0.7),
    Decision("token scale: the windows'", token_scale=1.0),
    Decision("token scale: 1.5 of the windows'", token_scale=1.5),
    Decision("high-norm patches not mended", reader=unmended),
    Decision("last block plain", reader=plain_block),
    Decision("last block: values alone", reader=values_alone),
    Decision("last block: values, residual, MLP", reader=values_and_mlp),
    Decision("near-synonyms count as negatives", constants=[(relevance, "SYNONYM", 1.0)]),
    Decision("maps do not follow edges", constants=[(localizer, "follow_edges", lambda m, _: m)]),
    Decision("superpixels share nothing", constants=[(edges, "SHARE", 0.0)]),
    Decision("superpixels share .4", constants=[(edges, "SHARE", 0.4)]),
    Decision("one segmentation", constants=[(edges, "COARSENESS", ((50, 20),))]),
    Decision("boxes at one threshold", constants=[(boxes, "LEVELS", (0.5,))]),
    Decision("box score: in the distinct map", constants=[SHARP]),
    Decision("box score: mean inside", constants=[(boxes, "contrast", inside_only)]),
    Decision("box score: inside - ring", constants=[(boxes, "STRENGTH", 1.0)]),
    Decision("box score: root of inside", constants=[(boxes, "STRENGTH", 0.5)]),
    Decision("nested boxes at their full score", constants=[(boxes, "DOUBT", 1.0)]),
    Decision("nested boxes at .7", constants=[(boxes, "DOUBT", 0.7)]),
    Decision("tips at their full score", constants=[(boxes, "TIP_DOUBT", 1.0)]),
    Decision("slivers", constants=[(boxes, "LEAST_SIDE", 1)]),
    Decision("wider ring", constants=[(boxes, "RING", 0.5)]),
    Decision("suppression at IoU 0.3", constants=[(boxes, "OVERLAP", 0.3)]),
    Decision("suppression at IoU 0.5", constants=[(boxes, "OVERLAP", 0.5)]),
    Decision("the best box does not lean", constants=[(boxes, "LEAN", 0.0)]),
    Decision("the best box leans .6 of the way", constants=[(boxes, "LEAN", 0.6)]),
    Decision("the best box leans all the way", constants=[(boxes, "LEAN", 1.0)]),
    Decision("scales 1 .71 .5 .35, stride 1/2", {"scales": (1, 0.71, 0.5, 0.35), "stride": 0.5}),
)


def main(decisions: Sequence[Decision], doc: str) -> None:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    add_material(parser)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these decisions alone")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    rewired = isinstance(getattr(encoder, "_read_tokens", None), tokens.RewiredBlock)
    decisions = [
        each
        for each in decisions
        if (not parsed.only or each.name in parsed.only) and (rewired or each.reader is None)
    ]
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
        Localizer(changed(encoder, each), replace(Options(threshold=0), **each.options))
        for each in decisions
    ]
    for sample in samples:
        encoded: dict[Any, Any] = {}
        for decision, machine, row in zip(decisions, machines, answers, strict=True):
            way = (machine.options.scales, machine.options.stride, decision.reader)
            if way not in encoded:
                encoded[way] = machine.encode(sample.image)
            row.append(ask(machine, encoded[way], sample, decision))
    truths = [sample.truth for sample in samples]
    rows = []
    for decision, row in zip(decisions, answers, strict=True):
        whole = figures(truths, row, row)
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


def changed(encoder: Any, decision: Decision) -> Any:
    """The encoder with a decision about its tokens undone."""
    encoder = copy.copy(encoder)
    if decision.token_scale is not None:
        encoder.token_scale = decision.token_scale * encoder.logit_scale
    if decision.reader is not None:
        encoder._read_tokens = decision.reader(encoder)
    return encoder


def ask(machine: Localizer, encoded: Any, sample: Sample, decision: Decision) -> Answer:
    """The answer about one encoded picture with one decision undone."""
    # A copy: superpixels are kept with what is encoded, and decisions differ in them.
    encoded = replace(encoded, tokens=encoded.tokens if decision.tokens else None)
    if decision.before is not None:
        encoded = decision.before(encoded)
    with undone(decision):
        result = machine.locate(encoded, sample.truth.prompts)
    if decision.afterwards is not None:
        result = decision.afterwards(machine, encoded, result)
    return answer_of(result, encoded.num_crops)


@contextlib.contextmanager
def undone(decision: Decision) -> Iterator[None]:
    """Put a decision's constants in place of the package's own for a while."""
    with contextlib.ExitStack() as stack:
        for module, name, value in decision.constants:
            stack.enter_context(mock.patch.object(module, name, value))
        yield


if __name__ == "__main__":
    main(DECISIONS, __doc__)
