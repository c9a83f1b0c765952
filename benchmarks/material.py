"""What a benchmark of accuracy is run on: an encoder, and photos or scenes with known boxes.

Knows flags and where they lead; knows no figure.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from localize.encoders import Encoder, load_encoder
from localize.evaluation.coco import read_coco
from localize.evaluation.evaluate import load_object, scene_samples
from localize.evaluation.samples import Sample


def add_material(parser: argparse.ArgumentParser) -> None:
    """The flags that `material` reads."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a folder in COCO's layout")
    source.add_argument("--scenes", type=int, metavar="N", help="N generated scenes")
    parser.add_argument("--seed", type=int, default=0, help="of the first scene")
    parser.add_argument("--encoder", metavar="MODULE:OBJECT", help="in place of --model")
    parser.add_argument("--model", default="emoji", help="a checkpoint; default: %(default)s")


def material(parsed: argparse.Namespace) -> tuple[Encoder, Sequence[Sample]]:
    """The encoder and the samples that the flags name."""
    encoder = load_object(parsed.encoder) if parsed.encoder else load_encoder(parsed.model)
    if parsed.data:
        return encoder, read_coco(parsed.data)
    return encoder, list(scene_samples(parsed.scenes, parsed.seed))
