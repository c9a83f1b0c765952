"""`localize detect`: find prompts in pictures.

Knows words on the command line; must not know algorithms, nor where outputs go.
"""

from __future__ import annotations

import argparse
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from localize.cli.asking import add_prompts, asked_of, check_asked
from localize.cli.cluster import add_ray, loading, on_cluster, say_plan, shown
from localize.cli.shared import (
    DONE,
    EXPORTS,
    FILE_ENDINGS,
    SOME_FAILED,
    Commands,
    add_model,
    add_options,
    check_folder,
    complain,
    hide_downloads,
    make_localizer,
    options_of,
    progress,
    say,
    say_paths,
    summary,
)
from localize.names import display_name, printable

if TYPE_CHECKING:
    from localize.cluster import Outcome, Plan
    from localize.export import Found
    from localize.images import ImageSource
    from localize.options import Options
    from localize.prompts import Prompt
    from localize.result import Localization
    from localize.runs import Run, Summary, Task

_REASONS = 20
"""Of as many failures the end of a run says why."""

Locate: TypeAlias = "Callable[..., Iterator[Localization]]"
"""`Localizer.locate_many` of what is asked."""

NO_ANSWER = "There is no answer: no image could be read, or there was none."

WRITTEN_BESIDE = 1
"""Images that are being written while the next one is localized."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
"""Why an output cannot be written that will keep all others from being written too."""


def add(commands: Commands) -> None:
    detect = commands.add_parser(
        "detect", help="find prompts in images; writes boxes as JSON and overlays"
    )
    detect.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders or globs")
    add_prompts(detect)
    detect.add_argument(
        "-o", "--output", default="localize-out", metavar="DIR", help="default: %(default)s"
    )
    detect.add_argument(
        "--overlays",
        choices=["none", "boxes", "heatmaps"],
        default="boxes",
        help="pictures of the answers: none, one with all boxes, or besides it a heatmap for each "
        "prompt; default: %(default)s",
    )
    detect.add_argument(
        "--crops", action="store_true", help="also cut out what is found, into DIR/crops"
    )
    detect.add_argument(
        "--report",
        action="store_true",
        help="also write a page to look through the answers with, DIR/report.html",
    )
    detect.add_argument(
        "--resume", action="store_true", help="skip images that an earlier run has finished"
    )
    detect.add_argument(
        "--export",
        nargs="+",
        choices=EXPORTS,
        default=[],
        metavar="FORMAT",
        help=f"also write the boxes for other tools, into DIR/exports: {', '.join(EXPORTS)}",
    )
    detect.add_argument(
        "--every",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="look at a frame of a video each so many seconds; default: %(default)s",
    )
    detect.add_argument(
        "--print",
        choices=["answers", "matching", "missing"],
        default="answers",
        help="on stdout: answers in words, or the paths of the images that have any of the prompts "
        "or none, a line each; default: %(default)s",
    )
    detect.add_argument(
        "--null", action="store_true", help="end printed paths with a null, as xargs -0 reads"
    )
    add_ray(detect)
    detect.add_argument(
        "--parquet",
        metavar="FOLDER",
        help="with --ray: write answers as Parquet, a row an image, in place of files for each; "
        "FOLDER and IMAGES may be addresses as s3://bucket/folder",
    )
    add_model(detect)
    add_options(detect)
    detect.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    options = options_of(parsed)
    if not parsed.every > 0:
        raise ValueError(f"--every must be a number of seconds above 0, not {parsed.every}")
    check_asked(parsed)
    parsed.images, parsed.prompts = _told_apart(parsed.images, parsed.prompts)
    check_folder(parsed.output)
    if parsed.parquet is not None:
        _check_parquet(parsed)
    with on_cluster(parsed) as plan:
        if plan is None:
            return _detect(parsed, options, None)
        if parsed.ray_plan:
            say_plan(plan)
            return DONE
        if parsed.parquet is not None:
            return _detect_into(parsed, options, plan)
        return _detect(parsed, options, plan)


def _check_parquet(parsed: argparse.Namespace) -> None:
    """Raise ValueError for what --parquet does not go along with."""
    if parsed.ray is None:
        raise ValueError("--parquet is for runs with --ray")
    for name in ("crops", "report", "export"):
        if getattr(parsed, name):
            raise ValueError(f"--{name} is of a run's own files, which --parquet does not write")
    if parsed.print != "answers":
        raise ValueError("--print is of a run's own files, which --parquet does not write")


def _inputs(parsed: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """The pictures and videos that are named, and what is wrong with the rest."""
    from localize import files, images, video
    from localize.runs import is_video, without_own

    paths, problems = files.find_images(parsed.images, images.SUFFIXES | video.SUFFIXES)
    for problem in problems:
        complain(problem)
    kept = without_own(paths)
    if (own := len(paths) - len(kept)) and not parsed.quiet:
        complain(f"{own} overlays of earlier runs are left out")
    if parsed.ray is not None and (videos := [path for path in kept if is_video(path)]):
        raise ValueError(
            f"--ray takes pictures, and {display_name(videos[0])} is a video; run it without --ray"
        )
    return kept, problems


def _settings(
    parsed: argparse.Namespace, options: Options, asked: Sequence[Prompt], has_pictures: bool
) -> dict[str, Any]:
    """What answers hang on, but for the prompts' labels."""
    from localize.encoders import checkpoint_identity
    from localize.prompts import as_prompt

    model = checkpoint_identity(parsed.model, unpickle=parsed.unpickle) if has_pictures else None
    settings = {
        "model": parsed.model,
        "checkpoint": model,
        "dtype": parsed.dtype,
        **asdict(options),
        # What labels alone do not say.
        "asked": [each.to_dict() for each in asked if each != as_prompt(each.label)],
    }
    del settings["batch_size"]  # Answers do not hang on it.
    return settings


def _detect(parsed: argparse.Namespace, options: Options, plan: Plan | None) -> int:
    from localize.runs import Run, is_video

    asked = asked_of(parsed)
    paths, problems = _inputs(parsed)
    pictures = [path for path in paths if not is_video(path)]
    hide_downloads(parsed.quiet)
    settings = _settings(parsed, options, asked, has_pictures=bool(paths))
    if len(pictures) < len(paths):
        settings["every"] = parsed.every
    job = Run(
        Path(parsed.output),
        tuple(each.label for each in asked),
        settings,
        overlays=parsed.overlays,
        crops=parsed.crops,
        report=parsed.report,
    )
    tasks = job.tasks(paths)
    left = [task for task in tasks if not (parsed.resume and job.is_finished(task))]
    failed: dict[ImageSource, str] = {}
    answered, seconds = 0, 0.0
    if tasks:
        job.prepare(left)
    if left and plan is not None:
        start = time.monotonic()
        failed = _detect_on_cluster(job, left, asked, options, plan, parsed)
        answered, seconds = len(left) - len(failed), time.monotonic() - start
    elif left:
        localizer = make_localizer(parsed, options, pictures)
        locate = partial(localizer.locate_many, prompts=asked)
        start = time.monotonic()
        stills = [task for task in left if not is_video(task.path)]
        failed = _detect_all(locate, job, stills, parsed)
        answered, seconds = len(stills) - len(failed), time.monotonic() - start
        failed |= _watch_all(locate, job, [t for t in left if is_video(t.path)], parsed)
    done = None
    if tasks:
        done = job.summarize(tasks, [*problems, *failed.values()], answered, seconds)
        job.export(tasks, parsed.export)
        if parsed.report:
            job.write_report(tasks, done)
    if parsed.print != "answers":
        say_paths(job.matching(tasks, parsed.print == "matching"), parsed.null)
    elif not parsed.quiet:
        say(_told(done, len(tasks) - len(left), len(left), parsed.output) if done else NO_ANSWER)
    return SOME_FAILED if problems or failed else DONE


def _detect_all(
    locate: Locate, job: Run, tasks: Sequence[Task], parsed: argparse.Namespace
) -> dict[ImageSource, str]:
    """Localize every image and write its outputs; returns why images have failed.

    An image is written in a thread while the next ones are localized.
    """
    from localize import files

    failed: dict[ImageSource, str] = {}
    task_of = {task.path: task for task in tasks}
    waiting: deque[tuple[Task, Localization, Future[None]]] = deque()
    with progress(None, len(tasks), parsed.quiet) as bar, ThreadPoolExecutor(1) as writer:

        def skip(path: ImageSource, error: Exception) -> None:
            failed[path] = str(error)
            complain(str(error))
            bar.update()

        def settle(most: int) -> None:
            """Wait until at most so many images are still to be written."""
            while len(waiting) > most:
                task, result, written = waiting.popleft()
                try:
                    written.result()
                except files.OutputError as error:
                    if getattr(error.__cause__, "errno", None) in NO_ROOM:
                        raise
                    skip(task.path, error)
                    continue
                if not parsed.quiet and parsed.print == "answers":
                    say(summary(result, display_name(task.path)))
                bar.update()

        results = locate([task.path for task in tasks], on_error=skip)
        for result in results:
            task = task_of[result.source]
            if not parsed.quiet:
                for note in result.notes:
                    complain(f"{display_name(task.path)}: {note}")
            waiting.append((task, result, writer.submit(job.write, task, result)))
            settle(WRITTEN_BESIDE)
        settle(0)
    return failed


def _detect_on_cluster(
    job: Run,
    tasks: Sequence[Task],
    asked: Sequence[Prompt],
    options: Options,
    plan: Plan,
    parsed: argparse.Namespace,
) -> dict[ImageSource, str]:
    """`_detect_all` by the workers of a cluster; the failed ones in the order of the tasks."""
    from localize import cluster

    load = loading(parsed, options, [task.path for task in tasks])
    outcomes = cluster.detect(job, tasks, asked, load, options=options, plan=plan)
    failed = {
        done.path: done.problem for done in shown(outcomes, len(tasks), parsed) if done.problem
    }
    return {task.path: failed[task.path] for task in tasks if task.path in failed}


def _detect_into(parsed: argparse.Namespace, options: Options, plan: Plan) -> int:
    """Answers as Parquet files in place of a run's own."""
    from localize import cluster, images
    from localize.export import totals
    from localize.runs import Summary

    asked = asked_of(parsed)
    paths, problems = cluster.find_pictures(parsed.images, images.SUFFIXES)
    for problem in problems:
        complain(problem)
    hide_downloads(parsed.quiet)
    settings = _settings(parsed, options, asked, has_pictures=bool(paths))
    labels = [each.label for each in asked]
    question = {"prompts": labels, "settings": settings}
    there = cluster.finished(parsed.parquet, question)
    if there and not parsed.resume:
        raise ValueError(
            f"{display_name(parsed.parquet)} holds answers; go on with --resume, or choose another "
            "folder for --parquet"
        )
    left = [path for path in paths if path.encode("utf-8", "surrogateescape") not in there]
    load = loading(parsed, options, [Path(path) for path in left if "://" not in path])
    start = time.monotonic()
    failed: list[str] = []

    def answered() -> Iterator[Outcome]:
        outcomes = cluster.detect_into(
            parsed.parquet, left, asked, load, question, options=options, plan=plan
        )
        for done in shown(outcomes, len(left), parsed) if left else ():
            if done.problem is None:
                yield done
            else:
                failed.append(done.problem)

    count, found = totals(answered(), labels)
    if not parsed.quiet:
        if left or not paths:
            seconds = round(time.monotonic() - start, 3)
            done = Summary(count, 0, tuple(found), (*problems, *failed), count, seconds)
            say(_told(done, 0, len(left), parsed.parquet))
        if there:
            say(f"{len(paths) - len(left):,} of {len(paths):,} images were there already.")
    return SOME_FAILED if problems or failed else DONE


def _watch_all(
    locate: Locate, job: Run, videos: Sequence[Task], parsed: argparse.Namespace
) -> dict[ImageSource, str]:
    """Localize the frames of every video and write its outputs; returns why videos have failed."""
    from localize.video import VideoError
    from localize.watch import in_words

    failed: dict[ImageSource, str] = {}
    for task in videos:
        with progress(None, None, parsed.quiet) as bar:
            try:
                watched = job.watch(
                    task,
                    locate,
                    every=parsed.every,
                    max_pixels=parsed.max_pixels,
                    progress=bar.update,
                )
            except VideoError as error:
                complain(str(error))
                failed[task.path] = str(error)
                continue
        if watched.problem is not None:
            complain(f"{watched.problem}; what was read of it is written")
            failed[task.path] = watched.problem
        if not parsed.quiet and parsed.print == "answers":
            say(in_words(watched, task.path))
    return failed


def _told_apart(images: list[str], prompts: list[str]) -> tuple[list[str], list[str]]:
    """Images and prompts where images were typed behind the prompts, as most type it first.

    Where none stands before them, the files, folders and globs at the end of the prompts are meant.
    Raises ValueError where there are none.
    """
    if images:
        return images, prompts
    count = len(prompts)
    while count > 1 and _names_files(prompts[count - 1]):
        count -= 1
    if count == len(prompts):
        ending = os.path.splitext(prompts[-1])[1].lower()
        if count > 1 and ending in FILE_ENDINGS:
            raise ValueError(f"there is no such image: {display_name(prompts[-1])}")
        raise ValueError(
            'no image is named; type them before the prompts: localize detect photo.jpg -p "a cat"'
        )
    return prompts[count:], prompts[:count]


def _names_files(word: str) -> bool:
    from localize.files import is_found

    return is_found(word)


def _told(done: Summary, earlier: int, left: int, folder: str) -> str:
    """What came of a run: what was found and what was not, what failed, and how quick it was.

    earlier: how many of the answers were there before it. left: how many were not.
    """
    if not (done.images or done.videos or done.failed):
        return NO_ANSWER
    lines = [""]
    for each in done.found:
        if places := _places(each):
            line = f"{printable(each.prompt)}: {places}"
            if not_here := done.not_here(each):
                line += f", not here in {not_here:,}"
            lines.append(line)
    absent = [printable(each.prompt) for each in done.found if not _places(each)]
    if absent and (done.images or done.videos):
        kinds = [word for word, count in zip(_KINDS, _counts(done), strict=True) if count]
        lines.append(f"not here in any {' or '.join(kinds)}: {', '.join(absent)}")
    if done.failed:
        lines += [f"{len(done.failed):,} failed:", *(f"  {why}" for why in done.failed[:_REASONS])]
        if more := len(done.failed[_REASONS:]):
            lines.append(f"  and {more:,} more, named in run.json")
    if (rate := done.images_per_second) is not None:
        lines.append(
            f"{_counted(done.asked, 'image')} in {done.seconds:,.1f} s, {rate:.2f} a second"
        )
    return "\n".join([*lines, _ending(done, earlier, left, folder)])


def _places(found: Found) -> str:
    """Where a prompt is, nothing if nowhere."""
    places = []
    if found.boxes:
        boxes = "1 box" if found.boxes == 1 else f"{found.boxes:,} boxes"
        places.append(f"{boxes} in {_counted(found.images, 'image')}")
    if found.videos:
        places.append(f"{found.seconds:,.1f} s of {_counted(found.videos, 'video')}")
    return " and ".join(places)


def _ending(done: Summary, earlier: int, left: int, folder: str) -> str:
    """The last line of a run."""
    where = display_name(folder)
    counts = zip(_counts(done), _KINDS, strict=True)
    answers = " and ".join(_counted(count, kind) for count, kind in counts if count)
    if not answers:
        return NO_ANSWER
    if not left:
        return f"Nothing was left to do: the answers for {answers} are in {where}."
    note = f", {earlier} of them from earlier runs" if earlier else ""
    return f"The answers for {answers} are in {where}{note}."


_KINDS = ("image", "video")


def _counts(done: Summary) -> tuple[int, int]:
    return done.images, done.videos


def _counted(count: int, kind: str) -> str:
    return f"1 {kind}" if count == 1 else f"{count:,} {kind}s"
