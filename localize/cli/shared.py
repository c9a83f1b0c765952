"""What the commands have in common: exit codes, options, progress and plain words.

Knows options and terminals; must not know algorithms. Imports what is heavy only once it is asked
for.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from localize.names import display_name, printable
from localize.options import Options

if TYPE_CHECKING:
    from localize.cluster import Outcome
    from localize.localizer import Localizer
    from localize.result import Localization

Commands: TypeAlias = "argparse._SubParsersAction[Any]"

EMOJI_MODEL = "emoji"  # shipped, for scenes and for trying things out
PHOTO_MODEL = "openai/clip-vit-base-patch16"  # for photos

CALIBRATION_SEED = 90_000_000
"""Scenes from this seed on are for calibrating: far from those that are measured on."""

DONE, SOME_FAILED, USAGE = 0, 1, 2
INTERRUPTED, TERMINATED = 130, 143

EXPORTS = "coco coco-results yolo voc labelme label-studio createml csv jsonl".split()
"""The names of `export.FORMATS`, which is not imported for `--help`."""

FILE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".json"}


def add_model(parser: argparse.ArgumentParser, default: str = PHOTO_MODEL) -> None:
    """The options that say which model, where and how.

    default: of --model, as its help tells it; a command that chooses by itself sets None instead.
    """
    parser.add_argument(
        "--model",
        default=default,
        metavar="NAME",
        help="hub id, with @revision if need be, or local folder of a CLIP-like checkpoint, or "
        f"open_clip:ARCHITECTURE/TAG ('localize models' lists some); default: {default}",
    )
    add_unpickle(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps; default: auto")
    parser.add_argument(
        "--dtype",
        default="auto",
        help="auto, float32, bfloat16, float16, on a CPU with the extra openvino int8; "
        "default: auto",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the towers for this machine, once: on a CPU with the extra openvino",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FOLDER",
        help="pictures that --dtype int8 quantizes the model on, the first time; "
        "default: the first of the run",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def add_unpickle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unpickle",
        action="store_true",
        help="open a model's weights even where they exist only as a pickle, which is safe only "
        "as far as torch's weights-only unpickler is",
    )


def add_windows(parser: argparse.ArgumentParser) -> None:
    """The options that say what is encoded of a picture."""
    defaults = Options()
    parser.add_argument(
        "--scales",
        type=float,
        nargs="*",
        default=defaults.scales,
        metavar="SIDE",
        help="window sides: up to 1 fractions of the short side, above 1 pixels; "
        f"default: {' '.join(map(str, defaults.scales))}",
    )
    parser.add_argument(
        "--stride",
        type=float,
        default=defaults.stride,
        help="longest step between windows as a fraction of their side, in (0, 1]; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--budget",
        type=int,
        default=defaults.budget,
        metavar="N",
        help="encode at most N windows of a picture, by scales and a stride that were measured for "
        "as many, in place of --scales and --stride; above the default's some 60 nothing changes",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=defaults.batch_size,
        metavar="N",
        help="crops through the encoder at once; default: 32, on CUDA 256",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=defaults.max_pixels,
        metavar="N",
        help="refuse larger pictures; default: %(default)s",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    defaults = Options()
    add_windows(parser)
    parser.add_argument(
        "--threshold",
        type=float,
        default=defaults.threshold,
        help="least score of a reported box: the chance, in [0, 1], that it is right; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--negatives",
        nargs="+",
        default=defaults.negatives,
        metavar="WORD",
        help="words to score against, besides the built-in ones",
    )


def options_of(parsed: argparse.Namespace) -> Options:
    """Options has one field a flag; lists from the command line become tuples."""
    values: dict[str, Any] = {}
    for field in fields(Options):
        value = getattr(parsed, field.name, field.default)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return Options(**values)


def make_localizer(
    parsed: argparse.Namespace, options: Options, pictures: Iterable[Path] = ()
) -> Localizer:
    """pictures: those of the run, for --dtype int8 where it has nothing else to calibrate on."""
    from localize.localizer import Localizer

    hide_downloads(parsed.quiet)
    scenes = parsed.model == EMOJI_MODEL or not pictures
    calibration = parsed.calibrate or (_calibration_scenes() if scenes else pictures)
    return Localizer.from_pretrained(
        parsed.model,
        device=parsed.device,
        dtype=parsed.dtype,
        compile=parsed.compile,
        unpickle=parsed.unpickle,
        calibration=calibration,
        options=options,
    )


def hide_downloads(quiet: bool) -> None:
    """Keep the hub's progress bars off the terminal of a user who wants errors only."""
    if quiet:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()


def _calibration_scenes() -> Iterator[Any]:
    """Pictures of what the embedded model knows, made as they are asked for."""
    from localize.evaluation.scenes import make_scene

    return (make_scene(seed).image for seed in count(CALIBRATION_SEED))


def summary(result: Localization | Outcome, name: str) -> str:
    lines = [name]
    for prompt, presence in zip(result.prompts, result.presence, strict=True):
        boxes = [box for box in result.boxes if box.label == prompt]
        places = "; ".join(
            f"({', '.join(str(round(edge)) for edge in box.xyxy)}) {box.score:.2f}" for box in boxes
        )
        lines.append(f"  {printable(prompt)}: {places or 'not here'} [presence {presence:.2f}]")
    return "\n".join(lines)


def check_folder(name: str) -> None:
    """Raise ValueError where what is to be a folder was most likely meant to be a file."""
    ending = os.path.splitext(name)[1].lower()
    if ending in FILE_ENDINGS and not os.path.isdir(name):
        raise ValueError(
            f"--output names a folder, in which the files get names of their own, and "
            f"{display_name(name)} looks like a file; leave out {ending}"
        )


def progress(items: Iterable[Any] | None, total: int | None, quiet: bool) -> Any:
    """A bar on stderr that vanishes when it is done and never shows where there is no terminal."""
    from tqdm import tqdm

    hidden = True if quiet or sys.stderr is None else None
    return tqdm(items, total=total, leave=False, unit="image", disable=hidden)


def complain(message: str) -> None:
    if sys.stderr is not None:  # print would take stdout in its place
        print(f"localize: {message}", file=sys.stderr)


def say(text: str) -> None:
    """Print to stdout, if there is one, what its encoding lacks as escapes."""
    if sys.stdout is None:
        return
    from tqdm import tqdm

    encoding = sys.stdout.encoding or "utf-8"
    tqdm.write(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stdout)
    sys.stdout.flush()


def say_paths(paths: Iterable[str | os.PathLike[str]], null: bool) -> None:
    """Print paths to stdout, if there is one, byte for byte. null: end each as `xargs -0` reads."""
    if sys.stdout is None:
        return
    for path in paths:
        sys.stdout.buffer.write(os.fsencode(path) + (b"\0" if null else b"\n"))
    sys.stdout.buffer.flush()
