"""A store, in a folder or in object storage: its two tables, what they were made with, and who may
write.

Knows LanceDB and the locks of a folder; must not know pictures, prompts or models. Object storage
has no locks; how it is reached stands in the environment, which LanceDB reads by itself.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localize.files import OutputError, make_folder
from localize.index.schema import WHOLE, pictures_schema, windows_schema, windows_table
from localize.names import display_name, printable

if TYPE_CHECKING:
    import pyarrow

if sys.platform != "win32":
    import fcntl

VERSION = 1
PICTURES, WINDOWS = "pictures", "windows"
KEY = b"localize"
"""Key, in the metadata of the tables' schemas, of what the store was made with."""

NEEDS_INDEX = 100_000
"""Windows from which on an approximate index is built; of fewer, exact search is quick enough."""

OUTGROWN = 4
"""With so many times the windows that it was built for, the approximate index is built anew: its
partitions stay as many as they were."""

PARTITION = 2_048
"""Windows in a partition of the approximate index, about."""

CODE_BITS = 5
"""Bits of a window's code for each dimension."""

KEPT = timedelta(minutes=10)
"""How long the tables' earlier versions stay, for whoever is reading them."""

MOST_REASON = 200
"""Letters of a report that cannot be made out."""

KEPT_BYTES = 64 << 20
"""What LanceDB may keep in memory of the tables' versions. Left alone it keeps every one that a run
has written, each with all its pieces: half a gigabyte for ten million windows."""

NAMES_AT_ONCE = 1_000
"""The most values that one condition of a search lists."""


class StoreError(ValueError):
    """A store cannot be used. The message is one sentence: why, and what would be right."""


@dataclass(frozen=True)
class Settings:
    """What the windows of a store were made with; with other settings they would be others.

    model: the name it is loaded by. checkpoint: a hash of its files, or whatever else tells it from
    others. dimensions: of its embeddings. bank: a hash of the words that weigh on each window.
    scales, stride, budget: as in `Options`.
    """

    model: str
    checkpoint: str
    dimensions: int
    bank: str
    scales: tuple[float, ...]
    stride: float
    budget: int | None

    def to_json(self) -> bytes:
        return json.dumps({"version": VERSION, **vars(self)}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Settings:
        found = json.loads(data)
        if found.pop("version") != VERSION:
            raise ValueError
        return cls(**{**found, "scales": tuple(found["scales"])})


class Store:
    """The tables of a library. Opened by `Store.open` or made by `Store.create`.

    place: a folder's whole path, or the address of object storage, as in s3://bucket/library.
    """

    def __init__(self, place: str, settings: Settings, database: Any):
        self.place, self.settings = place, settings
        self.pictures = database.open_table(PICTURES)
        self.windows = database.open_table(WINDOWS)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Raises StoreError where there is none, ImportError without the extra `index`.

        path: of a folder, or an address of object storage with "://" in it.
        """
        place = _place_of(path)
        if PICTURES not in _tables(place):
            raise StoreError(
                f"{display_name(path)} is no store; 'localize index FOLDER --store "
                f"{display_name(path)}' makes one"
            )
        database = _connect(place)
        try:
            settings = Settings.from_json(database.open_table(PICTURES).schema.metadata[KEY])
            return cls(place, settings, database)
        except Exception as error:  # whatever a damaged table leads to
            raise StoreError(
                f"the store {display_name(path)} is damaged, or of another version of localize; "
                "make it anew at another path"
            ) from error

    @classmethod
    def create(cls, path: str | os.PathLike[str], settings: Settings) -> Store:
        """The store at a path, as in `open`, made where there is none.

        Raises StoreError where it was made with other settings, or where something else is there,
        and OutputError where it cannot be written.
        """
        place = _place_of(path)
        tables = _tables(place)
        if PICTURES in tables:
            store = cls.open(path)
            store.check(settings)
            return store
        if not is_address(place):
            _make_folder(place, display_name(path))
        database = _connect(place)
        metadata = {KEY: settings.to_json()}
        # The pictures' table last: where it is, there is a store.
        if WINDOWS in tables:  # left by a run that was killed right here
            database.drop_table(WINDOWS)
        database.create_table(WINDOWS, schema=windows_schema(settings.dimensions))
        database.create_table(PICTURES, schema=pictures_schema().with_metadata(metadata))
        return cls(place, settings, database)

    def check(self, wanted: Settings) -> None:
        """Raise StoreError where the store was made with other settings than those."""
        have, name = self.settings, display_name(self.place)
        if (have.checkpoint, have.dimensions) != (wanted.checkpoint, wanted.dimensions):
            other = "other files of " if have.model == wanted.model else ""
            raise StoreError(
                f"the store {name} was made with {other}the model {have.model}, not with "
                f"{wanted.model}; use that model, or another path for another store"
            )
        if have.bank != wanted.bank:
            raise StoreError(
                f"the store {name} was made with other built-in negatives, of another version of "
                "localize; make it anew at another path"
            )
        for field in ("scales", "stride", "budget"):
            was, now = getattr(have, field), getattr(wanted, field)
            if was != now:
                raise StoreError(
                    f"the store {name} was made with --{field} {_typed(was)}, not {_typed(now)}; "
                    "use that, or another path for another store"
                )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let one process at a time write. Raises OutputError where another one does.

        Object storage and Windows have no such locks: there the caller sees to it.
        """
        if sys.platform == "win32" or is_address(self.place):
            self.refresh()
            yield
            return
        lock = os.open(os.path.join(self.place, ".lock"), os.O_CREAT | os.O_RDWR, 0o666)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"cannot write to {display_name(self.place)}: another run is writing to it"
                ) from error
            self.refresh()
            yield
        finally:
            os.close(lock)

    def refresh(self) -> None:
        """See what other processes have written since: what they replaced they keep for a while."""
        self.pictures.checkout_latest()
        self.windows.checkout_latest()

    # Reading ------------------------------------------------------------------------------------

    def picture_rows(self, condition: str | None = None) -> list[dict[str, Any]]:
        """Rows of the pictures' table as plain data."""
        query = self.pictures.search()
        found = (query.where(condition) if condition else query).limit(None).to_arrow()
        return list(found.to_pylist())

    def pictures_of(self, contents: Iterable[str]) -> list[dict[str, Any]]:
        """The rows of the files that have one of the contents and are still there."""
        return [
            row
            for part in _in_parts(contents)
            for row in self.picture_rows(f"{_among('content', part)} AND NOT missing")
        ]

    def windows_of(self, contents: Iterable[str]) -> pyarrow.Table:
        """All windows of these contents."""
        import pyarrow as pa

        parts = [
            self.windows.search().where(_among("content", part)).limit(None).to_arrow()
            for part in _in_parts(contents)
        ]
        return pa.concat_tables(parts)

    def whole_pictures(self, columns: tuple[str, ...]) -> pyarrow.Table:
        """Columns of the windows that are whole pictures, one of each content."""
        query = self.windows.search().where(f"number = {WHOLE}").select(list(columns))
        return query.limit(None).to_arrow()

    def orphans(self) -> list[str]:
        """The contents whose windows are of no picture."""
        import pyarrow.compute as pc

        wholes = self.whole_pictures(("content",))["content"].combine_chunks()
        query = self.pictures.search().select(["content"]).limit(None)
        used = pc.is_in(wholes, value_set=query.to_arrow()["content"].combine_chunks())
        return list(wholes.filter(pc.invert(used)).to_pylist())

    def count_pictures(self) -> int:
        """How many files can be found by a search."""
        return int(self.pictures.count_rows("problem IS NULL AND NOT missing"))

    def count_windows(self) -> int:
        return int(self.windows.count_rows())

    def has_index(self) -> bool:
        """Whether there is an approximate index."""
        return bool(self._indexes())

    def _indexes(self) -> dict[str, int]:
        """The names of approximate indexes, and how many windows each was built for."""
        names = [index.name for index in self.windows.list_indices() if "vector" in index.columns]
        return {name: int(name.rpartition("_")[2]) for name in names}

    # Writing ------------------------------------------------------------------------------------

    def add_windows(self, pictures: list[dict[str, Any]]) -> None:
        """Append `schema.window_rows` of several pictures, in one step."""
        if pictures:
            self.windows.add(windows_table(pictures, self.settings.dimensions))

    def add_pictures(self, rows: list[Mapping[str, Any]]) -> None:
        """Append rows of the pictures' table, of paths that have none, in one step."""
        if rows:
            self.pictures.add(_pictures_table(rows))

    def put_pictures(self, rows: list[Mapping[str, Any]]) -> None:
        """Write rows of the pictures' table in one step, in place of those of the same paths."""
        if rows:
            merge = self.pictures.merge_insert("path").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(_pictures_table(rows))

    def drop_pictures(self, paths: Iterable[str]) -> None:
        for part in _in_parts(paths):
            self.pictures.delete(_among("path", part))

    def drop_windows(self, contents: Iterable[str]) -> None:
        for part in _in_parts(contents):
            self.windows.delete(_among("content", part))

    def tidy(self) -> None:
        """Join small pieces of the tables, and see to the approximate index."""
        for table in (self.pictures, self.windows):
            table.optimize(cleanup_older_than=KEPT)
        windows, old = self.count_windows(), self._indexes()
        if windows < max(NEEDS_INDEX, OUTGROWN * max(old.values(), default=0)):
            return
        from lancedb.index import IvfRq

        partitions = max(1, windows // PARTITION)
        self.windows.create_index(
            "vector",
            config=IvfRq(distance_type="dot", num_partitions=partitions, num_bits=CODE_BITS),
            name=f"vector_{windows}",
        )
        for name in old.keys() - {f"vector_{windows}"}:
            self.windows.drop_index(name)


def is_address(place: str) -> bool:
    """Whether a place is object storage and no folder."""
    return "://" in place


def _pictures_table(rows: list[Mapping[str, Any]]) -> pyarrow.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([dict(row) for row in rows], schema=pictures_schema())


def _place_of(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if is_address(name) else os.path.abspath(name)


def _connect(place: str) -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # It warns of what is no concern of the user.
    try:
        import lancedb
    except ImportError as error:
        raise ImportError(
            "stores need the extra 'index': pip install 'clip-localize[index]'"
        ) from error
    return lancedb.connect(place, session=lancedb.Session(metadata_cache_size_bytes=KEPT_BYTES))


def _tables(place: str) -> set[str]:
    """The tables that are there. Raises StoreError where object storage cannot be reached."""
    if not is_address(place):
        return {name for name in (PICTURES, WINDOWS) if _is_table(Path(place, f"{name}.lance"))}
    try:
        return set(_connect(place).list_tables().tables)
    except ImportError:
        raise
    except Exception as error:  # whatever the storage and its client say
        raise StoreError(
            f"cannot reach the store {display_name(place)}: {_core_of(str(error))}"
        ) from error


def _core_of(report: str) -> str:
    """What a storage's client, or the storage itself in XML, says in a report of many lines."""
    found = re.search(r"<Message>(.*?)</Message>", report, re.DOTALL)
    found = found or re.search(r'message: "(.*?)"', report)
    return printable(found[1] if found else report[:MOST_REASON])


def _is_table(folder: Path) -> bool:
    return (folder / "_versions").is_dir()


def _make_folder(place: str, name: str) -> None:
    """Make a folder for a store. Raises StoreError where it holds something else."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if any(
            not each.startswith(".") and each != f"{WINDOWS}.lance" for each in os.listdir(place)
        ):
            raise StoreError(
                f"{name} holds other things than a store; choose another path for --store"
            )
    make_folder(place)


def _in_parts(values: Iterable[str]) -> Iterator[list[str]]:
    """The different values, no more at once than a condition should list; at least one part."""
    different = sorted(set(values))
    for start in range(0, max(1, len(different)), NAMES_AT_ONCE):
        yield different[start : start + NAMES_AT_ONCE]


def _among(column: str, values: list[str]) -> str:
    """The condition, in SQL, that a column has one of the values."""
    if not values:
        return "false"
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({quoted})"


def _typed(value: Any) -> str:
    """A setting as it is typed on the command line."""
    if value is None:
        return "unset"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
