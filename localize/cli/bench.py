"""`localize bench`: speed beside the encoder alone.

Knows words on the command line; must not know how speed is measured.
"""

from __future__ import annotations

import argparse
from typing import Any

from localize.cli.shared import DONE, Commands, add_model, hide_downloads, say


def add(commands: Commands) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure speed beside the encoder alone, the published loop and the machine's limit",
        description="--model takes vit-b-32, vit-b-16 and vit-l-14 too: CLIPs with random weights.",
    )
    bench.add_argument("--photos", metavar="FOLDER", help="pictures to read; default: made for it")
    bench.add_argument(
        "--seconds", type=float, default=30.0, help="measure at least this long; default: 30"
    )
    bench.add_argument("--json", metavar="FILE", help="write the figures to this file")
    bench.add_argument("--quick", action="store_true", help="one rough round over few files")
    bench.add_argument(
        "--formats",
        action="store_true",
        help="instead: encode in every number format this CPU has, torch and OpenVINO, speed and "
        "accuracy side by side",
    )
    add_model(bench, "vit-b-32")
    bench.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from localize import files

    if parsed.dtype == "int8" and not parsed.formats:
        raise ValueError("int8 is measured beside the other formats: localize bench --formats")
    if parsed.json:
        files.check_target(parsed.json)
    hide_downloads(parsed.quiet)
    report, table = _measured_formats(parsed) if parsed.formats else _measured(parsed)
    if parsed.json:
        files.write_json(parsed.json, report)
    if not parsed.quiet:
        say(table)
    return DONE


def _measured(parsed: argparse.Namespace) -> tuple[Any, str]:
    from localize.bench import bench, table

    report = bench(
        parsed.model,
        device=parsed.device,
        dtype=parsed.dtype,
        compile=parsed.compile,
        unpickle=parsed.unpickle,
        photos=parsed.photos,
        seconds=parsed.seconds,
        quick=parsed.quick,
    )
    return report, table(report)


def _measured_formats(parsed: argparse.Namespace) -> tuple[Any, str]:
    from localize.format_bench import format_bench, format_table

    report = format_bench(
        parsed.model,
        unpickle=parsed.unpickle,
        photos=parsed.photos,
        seconds=parsed.seconds,
        quick=parsed.quick,
    )
    return report, format_table(report)
