"""`localize evaluate`: accuracy on scenes or on pictures with known boxes.

Knows words on the command line; must not know metrics.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localize.cli.shared import (
    DONE,
    EMOJI_MODEL,
    PHOTO_MODEL,
    Commands,
    add_model,
    add_options,
    make_localizer,
    options_of,
    progress,
    say,
)

if TYPE_CHECKING:
    from localize.evaluation.samples import Sample


def add(commands: Commands) -> None:
    evaluate = commands.add_parser(
        "evaluate", help="measure accuracy on generated scenes or on a COCO-layout folder"
    )
    source = evaluate.add_mutually_exclusive_group(required=True)
    source.add_argument("--scenes", type=int, metavar="N", help="measure on N generated scenes")
    source.add_argument(
        "--data", metavar="FOLDER", help="measure on images/ and instances.json in this folder"
    )
    evaluate.add_argument(
        "--seed", type=int, default=0, help="seed of the first scene, or of --own-names"
    )
    evaluate.add_argument(
        "--own-names",
        action="store_true",
        help="ask each picture of --data for the names in it and as many that are not, as scenes "
        "are asked; default: for all names",
    )
    evaluate.add_argument("--json", metavar="FILE", help="write the figures to this file")
    evaluate.add_argument(
        "--encoder",
        metavar="MODULE:OBJECT",
        help="any object of the Encoder protocol, in place of --model",
    )
    evaluate.add_argument(
        "--recipes", action="store_true", help="run the published recipes on the same images too"
    )
    add_model(evaluate, f"{EMOJI_MODEL} for scenes, {PHOTO_MODEL} for a folder")
    add_options(evaluate)
    evaluate.set_defaults(run=run, model=None)


def run(parsed: argparse.Namespace) -> int:
    options = options_of(parsed)
    if parsed.scenes is not None and parsed.scenes < 1:
        raise ValueError(f"--scenes must be at least 1, not {parsed.scenes}")
    if parsed.own_names and not parsed.data:
        raise ValueError("--own-names goes with --data; scenes are always asked so")
    from localize import files, images
    from localize.evaluation import coco, evaluate
    from localize.evaluation.recipes import RECIPES
    from localize.localizer import Localizer

    if parsed.json:
        files.check_target(parsed.json)
    if parsed.encoder:
        localizer = Localizer(evaluate.load_object(parsed.encoder), options)
    else:
        parsed.model = parsed.model or (PHOTO_MODEL if parsed.data else EMOJI_MODEL)
        folder = [Path(parsed.data) / "images"] if parsed.data else []
        pictures, _ = files.find_images(folder, images.SUFFIXES)
        localizer = make_localizer(parsed, options, pictures)
    if parsed.data:
        samples: Iterable[Sample] = coco.read_coco(parsed.data)
        source: dict[str, Any] = {"data": Path(parsed.data).name}
        if parsed.own_names:
            samples = evaluate.own_names(samples, parsed.seed)
            source |= {"own_names": True, "seed": parsed.seed}
    else:
        samples = evaluate.scene_samples(parsed.scenes, parsed.seed)
        source = {"scenes": parsed.scenes, "seed": parsed.seed}
    recipes = tuple(RECIPES) if parsed.recipes else ()
    bar = partial(progress, quiet=parsed.quiet, total=parsed.scenes)
    report = evaluate.run(samples, localizer, recipes, source=source, progress=bar)
    if not parsed.quiet:
        say(evaluate.format_table(report))
        if parsed.data:
            say(f"\n{evaluate.format_per_class(report)}")
    if parsed.json:
        files.write_json(parsed.json, report)
    return DONE
