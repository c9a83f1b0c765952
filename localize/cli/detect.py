"""`localize detect`: find prompts in pictures.

Knows words on the command line; must not know algorithms, nor where outputs go.
"""

from __future__ import annotations

import argparse
import errno
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from localize.cli.shared import (
    DONE,
    SOME_FAILED,
    Commands,
    add_model,
    add_options,
    complain,
    make_localizer,
    options_of,
    progress,
    say,
    summary,
)
from localize.names import display_name

if TYPE_CHECKING:
    from localize.images import ImageSource
    from localize.localizer import Localizer
    from localize.runs import Run

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Why an output cannot be written that will keep all others from being written too."""


def add(commands: Commands) -> None:
    detect = commands.add_parser(
        "detect", help="find prompts in images; writes boxes as JSON and overlays"
    )
    detect.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or globs")
    detect.add_argument(
        "-p",
        "--prompt",
        dest="prompts",
        nargs="+",
        action="extend",
        required=True,
        metavar="PROMPT",
        help="what to look for, in words; one that begins with a dash: --prompt=-word",
    )
    detect.add_argument(
        "-o", "--output", default="localize-out", metavar="DIR", help="default: %(default)s"
    )
    detect.add_argument(
        "--heatmaps", action="store_true", help="also write a heatmap overlay for each prompt"
    )
    detect.add_argument(
        "--resume", action="store_true", help="skip images that an earlier run has finished"
    )
    add_model(detect)
    add_options(detect)
    detect.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    options = options_of(parsed)
    from localize import files, images
    from localize.runs import Run

    paths, problems = files.find_images(parsed.images, images.SUFFIXES)
    for problem in problems:
        complain(problem)
    failures = len(problems)
    settings = {"model": parsed.model, "dtype": parsed.dtype, **asdict(options)}
    job = Run(Path(parsed.output), tuple(parsed.prompts), parsed.heatmaps, settings)
    outputs = job.outputs(paths)
    if parsed.resume:
        outputs = {
            path: output for path, output in outputs.items() if not job.is_finished(path, output)
        }
    if outputs:
        files.make_folder(parsed.output)
        for folder in {output.parent for output in outputs.values()}:
            files.remove_abandoned(folder)
        failures += _detect_all(make_localizer(parsed, options), job, outputs, parsed)
    return SOME_FAILED if failures else DONE


def _detect_all(
    localizer: Localizer, job: Run, outputs: dict[Path, Path], parsed: argparse.Namespace
) -> int:
    """Localize every image and write its outputs; returns how many failed."""
    from localize import files

    failed: set[ImageSource] = set()

    def skip(path: ImageSource, error: Exception) -> None:
        complain(str(error))
        failed.add(path)

    remaining = iter(outputs.items())
    results = localizer.locate_many(outputs, parsed.prompts, skip)
    with progress(None, len(outputs), parsed.quiet) as bar:
        for result in results:
            path, output = next(pair for pair in remaining if pair[0] not in failed)
            if not parsed.quiet:
                for note in result.notes:
                    complain(f"{display_name(path)}: {note}")
            try:
                job.write(result, output)
            except files.OutputError as error:
                if getattr(error.__cause__, "errno", None) in NO_ROOM:
                    raise
                skip(path, error)
                continue
            if not parsed.quiet:
                say(summary(result, display_name(path)))
            bar.update()
    return len(failed)
