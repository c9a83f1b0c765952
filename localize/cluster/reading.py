"""The first stage of a run on Ray Data: pictures read and decoded by tasks of the CPU.

Knows rows, files and the file systems of Arrow; must not know models.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from localize.cluster.ledger import tried
from localize.images import ImageError, Picture, read_image
from localize.names import display_name, os_reason

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

    from localize.cluster.plan import Plan

READ_TOGETHER = 16
"""Pictures that a reading task says it has begun with."""

SOURCES = ("image", "bytes", "path")
"""Columns that a picture is read from; of a row that has several, the first."""

KEY, PIXELS, PROBLEM = "key", "pixels", "problem"
"""Columns of a row on its way: what tells it from others, its pixels, why it has none."""

Columns = Mapping[str, Any]
Read = Callable[[Any], tuple[Columns, "Picture | None"]]
"""Makes of a source columns, why there is no picture among them, and the picture."""


def reading(
    dataset: Dataset, ledger: Any, read: Read, schema: pyarrow.Schema, plan: Plan
) -> Dataset:
    """Rows of pictures with their upright pixels, or with why they cannot be read.

    dataset: each row has one of `SOURCES`: `image` (an array, as `images.read_image` takes it),
        `bytes` (of an image file) or `path` (text or bytes; see `read_picture`).
    read: called with each source. schema: of the columns that it gives.

    Gives rows without `image` and `bytes`, and with those columns, `KEY`, `PIXELS` (the bytes of
    uint8 (height, width, 3)), `height`, `width`, `file` (the name of the file, if any), `notes` and
    `PROBLEM` (null where all is well). Other columns are passed on.
    """
    from ray.data import TaskPoolStrategy

    return dataset.map_batches(
        _read,
        compute=TaskPoolStrategy(size=plan.workers),
        batch_size=None,  # Blocks as they are: gathered ones would be fewer than workers.
        batch_format="pyarrow",
        fn_kwargs={"ledger": ledger, "read": read, "schema": read_schema(schema)},
        num_cpus=plan.reader_cpus,
    )


def read_schema(more: pyarrow.Schema) -> pyarrow.Schema:
    """The columns that are added to rows when they are read."""
    import pyarrow as pa

    return pa.schema(
        [
            *more,
            pa.field(KEY, pa.string()),
            pa.field(PIXELS, pa.large_binary()),
            pa.field("height", pa.int32()),
            pa.field("width", pa.int32()),
            pa.field("file", pa.binary()),
            pa.field("notes", pa.list_(pa.string())),
            pa.field(PROBLEM, pa.string()),
        ]
    )


def _read(
    table: pyarrow.Table, ledger: Any, read: Read, schema: pyarrow.Schema
) -> Iterator[pyarrow.Table]:
    for start in range(0, len(table), READ_TOGETHER):
        yield from _read_some(table.slice(start, READ_TOGETHER), ledger, read, schema)


def _read_some(
    table: pyarrow.Table, ledger: Any, read: Read, schema: pyarrow.Schema
) -> Iterator[pyarrow.Table]:
    sources = _sources(table)
    keys = [_key(source) for source in sources]
    kept = table.drop_columns([name for name in ("image", "bytes") if name in table.column_names])

    def work(numbers: list[int]) -> Iterator[tuple[int, Columns]]:
        for number in numbers:
            columns, picture = read(sources[number])
            yield number, columns if picture is None else {**columns, **_columns(picture)}

    def set_aside(number: int, deaths: int) -> Columns:
        source = sources[number]
        name = display_name(source) if isinstance(source, str) else "a picture"
        return {PROBLEM: f"cannot read {name}: the process that reads it died {deaths} times"}

    for number, columns in tried(ledger, keys, work, set_aside):
        yield with_columns(kept.slice(number, 1), {KEY: keys[number], **columns}, schema)


def _columns(picture: Picture) -> Columns:
    height, width = picture.pixels.shape[:2]
    return {
        PIXELS: picture.pixels.tobytes(),
        "height": height,
        "width": width,
        "file": None if picture.file is None else os.fsencode(picture.file),
        "notes": list(picture.notes),
    }


def picture_in(table: pyarrow.Table, row: int) -> Picture:
    """The picture of a row that has one."""
    height, width, file, notes, pixels = (
        table[name][row] for name in ("height", "width", "file", "notes", PIXELS)
    )
    shape = (height.as_py(), width.as_py(), 3)
    return Picture(
        # A copy: Ray's memory is not to be written to, and torch takes only what could be.
        np.frombuffer(pixels.as_buffer(), np.uint8).reshape(shape).copy(),
        None if file.as_py() is None else os.fsdecode(file.as_py()),
        tuple(notes.as_py()),
    )


def with_columns(table: pyarrow.Table, columns: Columns, schema: pyarrow.Schema) -> pyarrow.Table:
    """A table of one row with the columns of a schema, null where they are not given."""
    import pyarrow as pa

    for field in schema:
        value = pa.array([columns.get(field.name)], field.type)
        if field.name in table.column_names:
            table = table.drop_columns([field.name])
        table = table.append_column(field, value)
    return table


def _sources(table: pyarrow.Table) -> list[Any]:
    """What each row's picture is read from."""
    from ray.data.block import BlockAccessor

    for name in SOURCES:
        if name not in table.column_names:
            continue
        if name == "image":
            return list(BlockAccessor.for_block(table.select([name])).to_numpy(name))
        values = table[name].to_pylist()
        return values if name == "bytes" else [os.fsdecode(value) for value in values]
    raise ValueError(
        "a dataset of pictures needs a column 'image', 'bytes' or 'path'; "
        f"this one has {', '.join(table.column_names)}"
    )


def _key(source: Any) -> str:
    if isinstance(source, str):
        return source.encode("utf-8", "backslashreplace").decode()
    data = source if isinstance(source, bytes) else np.ascontiguousarray(source).tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def only_read(source: Any, max_pixels: int) -> tuple[Columns, Picture | None]:
    """A `Read` that gives nothing but the picture."""
    try:
        return {}, read_picture(source, max_pixels)
    except (ImageError, TypeError) as error:
        return {PROBLEM: str(error)}, None


def read_picture(source: Any, max_pixels: int) -> Picture:
    """`images.read_image`, which also takes addresses of Arrow's file systems ("s3://...").

    Raises ImageError and TypeError as that does.
    """
    if not (isinstance(source, str) and "://" in source):
        return read_image(source, max_pixels=max_pixels)
    name = display_name(source)
    data = _fetched(source, name)
    try:
        picture = read_image(data, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(str(error).replace("the picture given as bytes", name)) from error
    return Picture(picture.pixels, source.rpartition("/")[2], picture.notes)


def _fetched(address: str, name: str) -> bytes:
    """The bytes of a file at an address. Raises ImageError."""
    from pyarrow import fs

    try:
        system, path = fs.FileSystem.from_uri(address)
        with system.open_input_file(path) as file:
            return bytes(file.read())
    except (OSError, ValueError) as error:  # Arrow's own are among the latter.
        why = os_reason(error) if isinstance(error, OSError) else " ".join(str(error).split())
        raise ImageError(f"cannot read {name}: {why}") from error
