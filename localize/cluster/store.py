"""The same index on a cluster: its machines read and encode, the driver writes into the store.

Knows the stages and what an update of a store asks for; must not know what is in a store.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from localize.cluster.jobs import in_blocks, plain_errors, prepare
from localize.cluster.ledger import start_ledger
from localize.cluster.plan import Plan
from localize.cluster.reading import PROBLEM, Columns, only_read, reading
from localize.cluster.stages import CONTENT, WINDOW, Indexing, Load, by_model, check, windows_in
from localize.index import Progress, Store
from localize.index.updates import FACTS, File, Updating, content_of, origin_of
from localize.names import display_name, os_reason

if TYPE_CHECKING:
    import pyarrow

    from localize.images import Picture


def update(
    store: Store,
    paths: Iterable[str | os.PathLike[str]],
    load: Load,
    *,
    max_pixels: int,
    plan: Plan,
    folders: Iterable[str | os.PathLike[str]] = (),
    prune: bool = False,
) -> Iterator[Progress]:
    """`index.update` by the machines of a cluster, which must all see the files; the driver writes.

    load: makes the store's localizer, in each worker.

    Files of one content that is new are encoded as often as there are of them, and kept once.
    """
    prepare()
    with store.writing():
        run = Updating(store)
        encoding = _encoded(run, map(Path, paths), load, max_pixels, plan)
        yield from run.over(encoding, list(map(Path, folders)), prune)


def _encoded(
    run: Updating, paths: Iterable[Path], load: Load, max_pixels: int, plan: Plan
) -> Iterator[None]:
    """Hand in what the cluster makes of the files that have changed."""
    import pyarrow as pa
    import ray

    files = list(run.changed(paths))
    if not files:
        return
    ledger = start_ledger()
    known = ray.put(np.sort(np.array(list(run.facts), "S")))
    table = pa.table(
        {
            "path": pa.array([file.path for file in files], pa.string()),
            "row": pa.array(range(len(files)), pa.int64()),
        }
    )
    dataset, plan = in_blocks(table, plan)
    schema = pa.schema(
        [(CONTENT, pa.string()), ("taken", pa.timestamp("s")), ("camera", pa.string())]
    )
    read = partial(_read, max_pixels=max_pixels, known=known)
    pictures = reading(dataset, ledger, read, schema, plan)
    encoded = by_model(pictures, Indexing, (ledger, load), plan)
    with plain_errors():
        for batch in encoded.iter_batches(batch_size=None, batch_format="pyarrow"):
            kept = [name for name in batch.column_names if name not in WINDOW]
            for number, row in enumerate(batch.select(kept).to_pylist()):
                check(row)
                hand_in(run, files[row["row"]], row, batch, number)
            yield


def hand_in(run: Updating, file: File, row: Columns, batch: pyarrow.Table, number: int) -> None:
    """Hand in what came of a file: the row of that number of a batch, whose windows are in it."""
    file = File(file.path, file.bytes, file.modified_ns, row[CONTENT] or "")
    if run.is_known(file):
        return
    if row[PROBLEM] is not None:
        run.fail(file, row[PROBLEM])
    else:
        windows = windows_in(batch, number, file.content)
        run.take(file, {name: row[name] for name in FACTS}, windows)


def _read(path: str, max_pixels: int, known: Any) -> tuple[Columns, Picture | None]:
    """A `Read` of a file, without the picture where its content is among the known ones, sorted."""
    import ray

    try:
        content = content_of(path)
    except OSError as error:
        return {PROBLEM: f"cannot read {display_name(path)}: {os_reason(error)}"}, None
    contents = ray.get(known)
    place = np.searchsorted(contents, content.encode())
    if place < len(contents) and contents[place] == content.encode():
        return {CONTENT: content}, None
    columns, picture = only_read(path, max_pixels)
    return {CONTENT: content, **columns, **vars(origin_of(path))}, picture
