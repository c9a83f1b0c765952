"""`--ray`: the same run on many machines.

Knows words on the command line; must not know datasets or actors.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from localize.cli.shared import complain, make_localizer, progress, say, summary
from localize.names import display_name
from localize.options import Options

if TYPE_CHECKING:
    from localize.cluster import Outcome, Plan
    from localize.localizer import Localizer

CALIBRATING = 64
"""Pictures of the run that go along to be calibrated on, should --dtype int8 need them."""


def add_ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on Ray: host:port of a cluster's head, 'auto' on a machine of a cluster, and "
        "without an address the cluster of RAY_ADDRESS or else this machine alone; needs the extra "
        "'ray'",
    )
    parser.add_argument(
        "--ray-workers",
        type=int,
        metavar="N",
        help="workers that hold the model; default: as many as suit the cluster",
    )
    parser.add_argument(
        "--ray-plan",
        action="store_true",
        help="print what --ray would start, and why, and stop",
    )


@contextmanager
def on_cluster(parsed: argparse.Namespace) -> Iterator[Plan | None]:
    """Be connected while in here, and what is to be started; None without --ray.

    Raises ImportError without the extra, and ValueError where nobody answers.
    """
    if parsed.ray is None:
        if parsed.ray_plan or parsed.ray_workers is not None:
            raise ValueError("--ray-plan and --ray-workers are for runs with --ray")
        yield None
        return
    from localize.cluster import connected, machines, make_plan
    from localize.encoders import checkpoint_bytes

    with connected(parsed.ray or None, parsed.ray_workers):
        yield make_plan(
            machines(),
            model_bytes=checkpoint_bytes(parsed.model, unpickle=parsed.unpickle),
            workers=parsed.ray_workers,
        )


def say_plan(plan: Plan) -> None:
    share = f", {plan.worker_gpus:g} of a GPU" if plan.worker_gpus else ""
    lines = [
        f"workers  {plan.workers}, each {plan.worker_cpus:g} of a core{share} and "
        f"{plan.worker_memory / 1e9:.1f} GB",
        f"readers  {plan.workers} at most, each {plan.reader_cpus:g} of a core",
        f"batch    {plan.batch} pictures",
        *(f"  {reason}" for reason in plan.why),
    ]
    say("\n".join(lines))


def loading(
    parsed: argparse.Namespace, options: Options, pictures: Sequence[Path]
) -> Callable[[], Localizer]:
    """What makes the localizer in a worker, in whatever folder that was started."""
    few = [Path(os.path.abspath(path)) for path in pictures[:CALIBRATING]]
    words = argparse.Namespace(**{name: getattr(parsed, name) for name in _OF_MODEL})
    return partial(_load, os.getcwd(), words, options, few)


_OF_MODEL = "model device dtype compile unpickle calibrate quiet".split()


def _load(
    folder: str, words: argparse.Namespace, options: Options, pictures: list[Path]
) -> Localizer:
    if os.path.isdir(folder):  # A model's folder means what it meant where it was typed.
        os.chdir(folder)
    return make_localizer(words, options, pictures)


def shown(outcomes: Iterator[Outcome], count: int, parsed: argparse.Namespace) -> Iterator[Outcome]:
    """What comes of pictures on a cluster, told as it comes."""
    with progress(None, count, parsed.quiet) as bar:
        for done in outcomes:
            name = display_name(done.path)
            if done.problem is not None:
                complain(done.problem)
            elif not parsed.quiet:
                for note in done.notes:
                    complain(f"{name}: {note}")
                if parsed.print == "answers":
                    say(summary(done, name))
            bar.update()
            yield done
