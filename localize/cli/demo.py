"""`localize demo`: the embedded model on a scene.

Knows words on the command line; must not know algorithms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from localize.cli.shared import DONE, Commands, check_folder, say, summary
from localize.names import display_name
from localize.runs import slug

DEMO_PROMPTS = ("a cat", "a butterfly", "a bicycle")


def add(commands: Commands) -> None:
    demo = commands.add_parser("demo", help="find a cat and a butterfly with the embedded model")
    demo.add_argument(
        "-o", "--output", default="localize-demo", metavar="DIR", help="default: %(default)s"
    )
    demo.add_argument("--quiet", action="store_true", help="print errors only")
    demo.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from PIL import Image

    from localize import files
    from localize.evaluation.scenes import demo_scene
    from localize.localizer import Localizer

    check_folder(parsed.output)
    folder = Path(parsed.output)
    image = demo_scene().image
    result = Localizer.from_pretrained("emoji").locate(image, DEMO_PROMPTS)
    files.write_image(folder / "scene.png", Image.fromarray(image))
    for prompt in DEMO_PROMPTS:
        files.write_image(folder / f"{slug(prompt)}.png", result.overlay(prompt))
    files.write_image(folder / "boxes.png", result.boxes_overlay())
    result.save_json(folder / "scene.json")
    if not parsed.quiet:
        say(summary(result, "scene.png"))
        say(f"The scene, its overlays and the JSON are in {display_name(folder)}.")
    return DONE
