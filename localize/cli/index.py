"""`localize index`: encode a library of pictures once, to be asked ever after.

Knows words on the command line; must not know what is in a store.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from localize.cli.cluster import add_ray, loading, on_cluster, say_plan
from localize.cli.shared import (
    DONE,
    SOME_FAILED,
    Commands,
    add_model,
    add_windows,
    complain,
    hide_downloads,
    make_localizer,
    options_of,
    progress,
    say,
)
from localize.names import display_name, printable

if TYPE_CHECKING:
    from localize.cluster import Plan
    from localize.index import Progress
    from localize.options import Options


def add(commands: Commands) -> None:
    index = commands.add_parser(
        "index",
        help="encode pictures once into a store that 'localize search' asks",
        description="Encode pictures into a store. Run it again after changes: only what is new is "
        "encoded. Needs the extra 'index'.",
    )
    index.add_argument("images", nargs="*", metavar="FOLDER", help="folders, files or globs")
    index.add_argument(
        "--store",
        metavar="PATH",
        help="the folder of the store, or an address as s3://bucket/path; made if need be",
    )
    index.add_argument(
        "--prune",
        action="store_true",
        help="drop from the store what is no more in the folders, instead of marking it as missing",
    )
    index.add_argument("--status", metavar="PATH", help="tell what is in a store, and stop")
    index.add_argument(
        "--duplicates",
        metavar="PATH",
        help="list groups of pictures in a store that show the same, and stop",
    )
    add_ray(index)
    add_model(index)
    add_windows(index)
    index.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    if parsed.status is not None:
        return _status(parsed.status)
    if parsed.duplicates is not None:
        return _duplicates(parsed.duplicates)
    if parsed.store is None or not parsed.images:
        missing = "folder" if parsed.store else "store"
        raise ValueError(f"no {missing} is named; localize index FOLDER --store PATH")
    options = options_of(parsed)
    with on_cluster(parsed) as plan:
        if parsed.ray_plan and plan is not None:
            say_plan(plan)
            return DONE
        return _update(parsed, options, plan)


def _update(parsed: argparse.Namespace, options: Options, plan: Plan | None) -> int:
    from localize import files, images
    from localize.encoders import checkpoint_identity
    from localize.index import Store, settings_of, update
    from localize.runs import without_own

    paths, problems = files.find_images(parsed.images, images.SUFFIXES)
    for problem in problems:
        complain(problem)
    pictures = without_own(paths)
    hide_downloads(parsed.quiet)
    checkpoint = checkpoint_identity(parsed.model, unpickle=parsed.unpickle)
    localizer = make_localizer(parsed, options, pictures)
    store = Store.create(parsed.store, settings_of(localizer, checkpoint))
    folders = [name for name in parsed.images if os.path.isdir(name)]
    told = 0
    if plan is None:
        steps = update(store, pictures, localizer, folders=folders, prune=parsed.prune)
    else:
        from localize import cluster

        del localizer  # The workers have their own.
        steps = cluster.update(
            store,
            pictures,
            loading(parsed, options, pictures),
            max_pixels=options.max_pixels,
            plan=plan,
            folders=folders,
            prune=parsed.prune,
        )
    with progress(None, len(pictures), parsed.quiet) as bar:
        for done in steps:
            for problem in done.problems[told:]:
                complain(problem)
            told = len(done.problems)
            bar.update(done.encoded + done.known + done.unchanged + done.failed - bar.n)
    if not parsed.quiet:
        say(_ending(done, store.count_pictures(), parsed.store))
    return SOME_FAILED if problems or done.failed else DONE


def _ending(done: Progress, pictures: int, store: str) -> str:
    """The last line of a run."""
    parts = [
        f"{done.encoded:,} encoded",
        f"{done.known:,} known by their content",
        f"{done.unchanged:,} unchanged",
        f"{done.failed:,} that cannot be read",
        f"{done.missing - done.pruned:,} missing (--prune drops them)",
        f"{done.pruned:,} dropped",
    ]
    told = [part for part in parts if not part.startswith("0 ")]
    return f"{_pictures(pictures)} in {display_name(store)}: {', '.join(told) or 'nothing new'}."


def _status(path: str) -> int:
    from localize.index import Store
    from localize.index.store import is_address

    store = Store.open(path)
    settings, rows = store.settings, store.picture_rows("problem IS NOT NULL AND NOT missing")
    missing = store.pictures.count_rows("missing")
    search = "by an approximate index" if store.has_index() else "exact"
    lines = [
        f"{_pictures(store.count_pictures())} in {display_name(path)}",
        f"  windows     {store.count_windows():,}; search is {search}",
        f"  missing     {missing:,}",
        f"  unreadable  {len(rows):,}",
        *(f"    {printable(row['problem'])}" for row in rows),
        f"  model       {settings.model}",
        f"  scales      {' '.join(map(str, settings.scales))}, stride {settings.stride}, "
        f"budget {settings.budget or 'none'}",
    ]
    if not is_address(store.place):
        lines.append(f"  on disk     {_bytes_in(path) / 1e6:,.1f} MB")
    say("\n".join(lines))
    return DONE


def _duplicates(path: str) -> int:
    from localize.index import Store, duplicates

    store = Store.open(path)
    groups = ["\n".join(map(display_name, group)) for group in duplicates(store)]
    say("\n\n".join(groups) or f"no two of {_pictures(store.count_pictures())} show the same")
    return DONE


def _bytes_in(path: str) -> int:
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count:,} pictures"
