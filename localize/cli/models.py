"""`localize models`: models to start with, and whether a model would load.

Knows words on the command line, and facts about a few public models; must not know how models are
loaded.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

from localize.cli.shared import DONE, Commands, add_unpickle, hide_downloads, say


class Model(NamedTuple):
    """A public model. Sources are in docs/models.md."""

    name: str
    purpose: str
    megabytes: int  # of its weights: four bytes a parameter
    side: int  # of its input, in pixels
    tokens: bool
    library: str
    licence: str


MODELS = (
    Model("emoji", "scenes, tests (shipped)", 7, 96, True, "transformers", "Apache-2.0"),
    Model("openai/clip-vit-base-patch16", "photos", 598, 224, True, "transformers", "MIT"),
    Model(
        "openai/clip-vit-large-patch14", "photos, slower", 1710, 224, True, "transformers", "MIT"
    ),
    Model(
        "google/siglip-base-patch16-256-multilingual",
        "many languages",
        1480,
        256,
        True,
        "transformers",
        "Apache-2.0",
    ),
    Model(
        "apple/MobileCLIP-S2-OpenCLIP", "small and fast", 397, 256, True, "open_clip", "apple-amlr"
    ),
    Model("timm/PE-Core-T-16-384", "small, fine tokens", 278, 384, True, "open_clip", "Apache-2.0"),
    Model(
        "flax-community/clip-rsicd-v2",
        "satellite pictures",
        605,
        224,
        True,
        "transformers",
        "none stated",
    ),
    Model(
        "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "medicine",
        786,
        224,
        True,
        "open_clip",
        "MIT",
    ),
    Model("imageomics/bioclip", "biology: species", 598, 224, True, "open_clip", "MIT"),
    Model("patrickjohncyh/fashion-clip", "fashion", 605, 224, True, "transformers", "MIT"),
)
COLUMNS = ("model", "for", "MB", "input", "tokens", "library", "licence")


def add(commands: Commands) -> None:
    models = commands.add_parser(
        "models",
        help="list models to start with, or tell whether a model would load",
        description="Without --check: a short list of public models. With it: whether a model "
        "would load, from which files and how large, before its weights are fetched.",
    )
    models.add_argument(
        "--check", metavar="NAME", help="hub id, with @revision if need be, or local folder"
    )
    add_unpickle(models)
    models.add_argument("--quiet", action="store_true", help="print errors only")
    models.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    if parsed.check is None:
        text = _table()
    else:
        hide_downloads(parsed.quiet)
        text = _report(parsed.check, unpickle=parsed.unpickle)
    if not parsed.quiet:
        say(text)
    return DONE


def _table() -> str:
    rows = [COLUMNS]
    for model in MODELS:
        size, side = str(model.megabytes), f"{model.side} px"
        tokens = "yes" if model.tokens else "no"
        rows.append((model.name, model.purpose, size, side, tokens, model.library, model.licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(
        [
            *lines,
            "",
            "Any other CLIP-like model loads too: localize models --check NAME tells. Models of",
            "open_clip need: pip install 'clip-localize[open-clip]'",
        ]
    )


def _report(name: str, *, unpickle: bool) -> str:
    from localize.encoders.inspection import inspect_model

    found = inspect_model(name, unpickle=unpickle)
    weights = sum(found.sizes[file] for file in found.layout.weights)
    others = sum(found.sizes[file] for file in found.layout.others)
    files = ", ".join(found.layout.weights)
    opened = "; a pickle, opened by torch's weights-only unpickler" if found.layout.pickled else ""
    where = "where things are inside a window too" if found.tokens else "one vector a window only"
    return "\n".join(
        [
            f"{name} would load, with {found.layout.library}",
            f"  weights  {weights / 1e6:.1f} MB, {found.origin}: {files}{opened}",
            f"  others   {others / 1e6:.1f} MB: {', '.join(found.layout.others)}",
            f"  input    {found.image_size} x {found.image_size} pixels",
            f"  tokens   {'yes' if found.tokens else 'no'}: {where}",
        ]
    )
