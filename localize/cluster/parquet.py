"""Answers as Parquet files, a row a picture, and pictures at addresses of Arrow's file systems.

Knows Arrow's files and file systems; must not know models, nor who does what on a cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from localize.cluster.reading import PROBLEM
from localize.cluster.stages import STOPPED
from localize.files import OutputError, find_images, write_bytes
from localize.names import display_name, os_reason

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.fs import FileSystem

KEY = b"localize"
"""Key, in the metadata of the files' schemas, of what was asked, and with which settings."""

PARTS, MOST_IN_PART = 1000, 1000
"""Files that a long run writes at least, and rows in one at most."""


def rows_in_part(rows: int) -> int | None:
    """How many of a run's rows are put into one file; None: as few as come together."""
    return min(MOST_IN_PART, rows // PARTS) or None


def find_pictures(
    names: Iterable[str | os.PathLike[str]], suffixes: Collection[str]
) -> tuple[list[str], list[str]]:
    """`files.find_images`, which also takes addresses ("s3://bucket/photos") of files and folders.

    Files that are no addresses are named by their whole path.
    """
    paths: dict[str, None] = {}
    problems: list[str] = []
    for each in names:
        name = os.fsdecode(each)
        if "://" in name:
            found, wrong = _at_address(name, suffixes)
        else:
            local, wrong = find_images([name], suffixes)
            found = [os.path.abspath(path) for path in local]
        paths |= dict.fromkeys(found)
        problems += wrong
    return list(paths), problems


def _at_address(address: str, suffixes: Collection[str]) -> tuple[list[str], list[str]]:
    from pyarrow import fs

    name = display_name(address)
    try:
        system, path = fs.FileSystem.from_uri(address)
        there = system.get_file_info(path)
        if there.type == fs.FileType.NotFound:
            return [], [f"cannot read {name}: there is no such file or folder"]
        if there.type == fs.FileType.File:
            return [address], []
        infos = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, ValueError) as error:  # Arrow's own are among the latter.
        return [], [f"cannot read {name}: {_reason(error)}"]
    scheme, _, rest = address.partition("://")
    _, question, query = rest.partition("?")
    found = sorted(
        f"{scheme}://{info.path}{question}{query}"
        for info in infos
        if info.type == fs.FileType.File
        and os.path.splitext(info.path)[1].lower() in suffixes
        and not info.base_name.startswith(".")
    )
    return found, [] if found else [f"cannot read {name}: there are no pictures in this folder"]


def finished(folder: str, question: Mapping[str, Any]) -> set[bytes]:
    """The paths of the pictures that have a row in a folder's files.

    Raises ValueError where they are the answers to another question, and OutputError where the
    folder cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import fs

    system, path = _at(folder)
    found: set[bytes] = set()
    try:
        parts = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        for part in parts:
            if not part.path.endswith(".parquet"):
                continue
            with system.open_input_file(part.path) as file:
                parquet = pq.ParquetFile(file)
                said = (parquet.schema_arrow.metadata or {}).get(KEY)
                if said is None or json.loads(said) != json.loads(json.dumps(question)):
                    raise ValueError(
                        f"{display_name(folder)} holds answers to other prompts, or with other "
                        "settings; choose another folder for --parquet"
                    )
                for rows in parquet.iter_batches(columns=["path"]):
                    found.update(rows["path"].cast(pa.binary()).to_pylist())
    except OSError as error:
        raise OutputError(f"cannot read {display_name(folder)}: {_reason(error)}") from error
    return found


def make_folder(folder: str) -> None:
    """Make a folder where there is none. Raises OutputError."""
    system, path = _at(folder)
    try:
        system.create_dir(path)
    except OSError as error:
        raise OutputError(f"cannot write to {display_name(folder)}: {_reason(error)}") from error


def write_part(table: pyarrow.Table, folder: str, question: Mapping[str, Any]) -> pyarrow.Table:
    """Write rows as one file, whole or not at all, and give them on.

    The same rows have the same name, so that a second try writes them in place of the first's. Rows
    that say why the run has stopped are not answers. Where nothing can be written, all rows say so.
    """
    import pyarrow as pa

    done = table.filter(table[STOPPED].is_null()).drop_columns([STOPPED])
    try:
        if len(done):
            _write(done, folder, {KEY: json.dumps(question).encode()})
    except OutputError as error:
        rows = [PROBLEM, STOPPED]
        said = (pa.array([why] * len(table), pa.string()) for why in (str(error), "output"))
        for name, column in zip(rows, said, strict=True):
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def _write(table: pyarrow.Table, folder: str, metadata: dict[bytes, bytes]) -> None:
    """Raises OutputError, also where a folder without an address is not seen on this machine."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import fs

    paths = sorted(table["path"].cast(pa.binary()).to_pylist())
    digest = hashlib.blake2b(b"\0".join(paths), digest_size=16).hexdigest()
    data = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), data, compression="zstd")
    system, path = _at(folder)
    name = f"{path.rstrip('/')}/part-{digest}.parquet"
    if isinstance(system, fs.LocalFileSystem):
        if not os.path.isdir(path):
            raise OutputError(
                f"cannot write to {display_name(folder)}: there is no such folder on "
                f"{platform.node()}; it must be one that all machines share"
            )
        write_bytes(name, data.getvalue().to_pybytes())
        return
    try:
        with system.open_output_stream(name) as file:  # There once it is closed, and not before.
            file.write(data.getvalue())
    except OSError as error:
        raise OutputError(f"cannot write {display_name(name)}: {_reason(error)}") from error


def _at(folder: str) -> tuple[FileSystem, str]:
    """The file system of an address or folder, and the path in it. Raises ValueError."""
    from pyarrow import fs

    if "://" not in folder:
        return fs.LocalFileSystem(), os.path.abspath(folder)
    try:
        system, path = fs.FileSystem.from_uri(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{display_name(folder)} cannot be used: {_reason(error)}") from error
    return system, path


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os_reason(error)
    return " ".join(str(error).split())
