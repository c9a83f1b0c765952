"""Bringing a store up to date with files: what is new is encoded, and nothing else.

Knows files, their contents and the store; must not know prompts.

A file is unchanged while its size and time are; else its content decides, by a hash. Windows belong
to contents and not to files, so that what was moved, copied or touched is not encoded again. The
windows of a few pictures are written first and then the pictures' rows, which say that they are
done: what a killed run leaves is at most windows that no row speaks of, and the next run drops
them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from localize.encoders.errors import EMBEDDED
from localize.encoding import Encoded
from localize.images import ImageError, ImageSource, Origin, read_origin
from localize.index.schema import stored_vectors, window_rows
from localize.index.store import Settings, Store
from localize.localizer import Localizer
from localize.names import display_name, os_reason, printable
from localize.relevance import negatives_weight

WINDOWS_AT_ONCE = 8_192
"""Windows that are written together: some 10 MB."""

SECONDS_AT_ONCE = 20.0
"""Longest time between two writings: what a killed run loses."""

FACTS = ("width", "height", "taken", "camera")
"""What the pictures' table has of a picture itself."""

HASH_BYTES = 16
READ_BYTES = 1 << 20


def settings_of(localizer: Localizer, checkpoint: str | None = None) -> Settings:
    """What a store of this localizer's windows is made with.

    checkpoint: `encoders.checkpoint_identity` of its model; None: an encoder without files, which
    its name tells from others.
    """
    options, bank, name = localizer.options, localizer.bank, localizer.model
    if name != EMBEDDED and os.path.isdir(name):  # It is to be found from any folder.
        name = os.path.abspath(name)
    return Settings(
        model=name,
        checkpoint=checkpoint or localizer.model,
        dimensions=bank.shape[1],
        bank=hashlib.blake2b("\n".join(localizer.bank_words).encode(), digest_size=8).hexdigest(),
        scales=tuple(float(scale) for scale in options.scales),
        stride=float(options.stride),
        budget=options.budget,
    )


@dataclass
class Progress:
    """What a run did with the files it was given, each counted once, and with the store.

    encoded, known, unchanged, failed: files that went through the encoder, whose content was known
    already, that were left alone, and that cannot be read (or could not before, and are unchanged).
    problems: a sentence for each file that failed in this run.
    missing: files below the folders that are no more there. pruned: rows of such that were dropped.
    """

    encoded: int = 0
    known: int = 0
    unchanged: int = 0
    failed: int = 0
    problems: list[str] = field(default_factory=list)
    missing: int = 0
    pruned: int = 0


@dataclass(frozen=True)
class File:
    """A file to be indexed, as it was before it was read."""

    path: str
    bytes: int
    modified_ns: int
    content: str = ""

    def row(self, **facts: Any) -> dict[str, Any]:
        """Its row of the pictures' table."""
        unknown = dict.fromkeys(("width", "height", "taken", "camera", "problem"))
        own = {**vars(self), "content": self.content or None}
        return {**unknown, "missing": False, **facts, **own}


def update(
    store: Store,
    paths: Iterable[str | os.PathLike[str]],
    localizer: Localizer,
    *,
    folders: Iterable[str | os.PathLike[str]] = (),
    prune: bool = False,
) -> Iterator[Progress]:
    """Bring a store up to date, giving the progress (the same object) after each file.

    paths: the pictures that are to be in it.
    folders: of those that the store knows below them, what is no more there is marked as missing.
    prune: drop what is missing below the folders, with its windows.

    Raises StoreError where the localizer's model or windows are not the store's, and OutputError
    where another run is writing.
    """
    with store.writing():
        run = Updating(store)
        encoding = run.encoded_here(map(Path, paths), localizer)
        yield from run.over(encoding, list(map(Path, folders)), prune)


class Updating:
    """One run over files, with what it has not written yet.

    Files are encoded here (`encoded_here`), or elsewhere: whoever does that asks for `changed` and
    hands in what comes of each by `take` or `fail`.
    """

    def __init__(self, store: Store):
        self.store = store
        self.progress = Progress()
        # Those that were there before; of a file that is new no more is kept than has to be.
        self.rows = {row["path"]: row for row in store.picture_rows()}
        self.added: set[int] = set()  # hashes of the paths that have got a row since
        self.facts = {  # `FACTS` of the contents that are encoded
            row["content"]: _facts(row)
            for row in self.rows.values()
            if row["content"] and row["problem"] is None
        }
        self.waiting: dict[str, list[File]] = {}  # by content, on their way through the encoder
        self.new_windows: list[dict[str, Any]] = []
        self.new_rows: list[Mapping[str, Any]] = []
        self.written = time.monotonic()

    def over(
        self, encoding: Iterable[object], folders: list[Path], prune: bool
    ) -> Iterator[Progress]:
        """The whole of a run. encoding: each step of it hands in what it did with some files."""
        self._drop_unfinished()
        try:
            for _ in encoding:
                self._write_some()
                yield self.progress
        finally:  # What is encoded is kept, whatever ends the run.
            self._write()
        self._see_to_missing(folders, prune)
        self.store.tidy()
        yield self.progress

    def encoded_here(self, paths: Iterable[Path], localizer: Localizer) -> Iterator[None]:
        """Encode files in this process, in their order."""
        for encoded in localizer.encode_many(self._to_encode(paths), self._unreadable):
            first, *copies = self._waited_for(encoded.source)
            height, width = encoded.picture.pixels.shape[:2]
            facts = {"width": width, "height": height, **vars(origin_of(first.path))}
            if self.take(first, facts, windows_of(encoded, first.content, localizer)):
                for file in copies:
                    self._put(file, facts)
                self.progress.known += len(copies)
            yield

    def _drop_unfinished(self) -> None:
        """Drop the windows that a killed run, or a change of files, has left to nobody."""
        if orphans := self.store.orphans():
            self.store.drop_windows(orphans)

    def _to_encode(self, paths: Iterable[Path]) -> Iterator[str]:
        """The files whose content is new; deals with all others."""
        for seen in self.changed(paths):
            try:
                file = replace(seen, content=content_of(seen.path))
            except OSError as error:
                self.fail(seen, f"cannot read {display_name(seen.path)}: {os_reason(error)}")
                continue
            if file.content in self.waiting:
                self.waiting[file.content].append(file)
            elif not self.is_known(file):
                self.waiting[file.content] = [file]
                yield file.path
            self._write_some()

    def changed(self, paths: Iterable[Path]) -> Iterator[File]:
        """The files that are not as they were; deals with all others."""
        for path in paths:
            file = self._seen(os.path.abspath(path))
            if file is not None and not self._is_unchanged(file):
                yield file

    def is_known(self, file: File) -> bool:
        """Whether what is in a file has been seen before; if so, takes it up as that."""
        before = self.rows.get(file.path)
        if file.content in self.facts:
            self._put(file, dict(zip(FACTS, self.facts[file.content], strict=True)))
            self.progress.known += 1
        elif before and before["content"] == file.content and before["problem"]:
            self._put(file, before)
            self.progress.failed += 1
        else:
            return False
        return True

    def take(self, file: File, facts: Mapping[str, Any], windows: dict[str, Any]) -> bool:
        """Take up a file that has been through the encoder; False where it has changed since.

        facts: its width, height, taken and camera. windows: rows of the windows' table.
        """
        now = self._seen(file.path)
        if now is None or (now.bytes, now.modified_ns) != (file.bytes, file.modified_ns):
            if now is not None:
                self.fail(None, f"cannot read {display_name(file.path)}: it is being written")
            return False
        self.new_windows.append(windows)
        self.facts[file.content] = _facts(facts)
        self._put(file, facts)
        self.progress.encoded += 1
        return True

    def fail(self, file: File | None, problem: str) -> None:
        """Count and remember a file that cannot be read; None: one that has no row."""
        self.progress.failed += 1
        self.progress.problems.append(problem)
        if file is not None:
            self.new_rows.append(file.row(problem=printable(problem)))

    def _seen(self, path: str) -> File | None:
        try:
            path.encode()
        except UnicodeEncodeError:
            self.fail(None, f"cannot index {display_name(path)}: its name is no text in UTF-8")
            return None
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            why = os_reason(error) if isinstance(error, OSError) else str(error)
            self.fail(None, f"cannot read {display_name(path)}: {why}")
            return None
        return File(path, status.st_size, status.st_mtime_ns)

    def _is_unchanged(self, file: File) -> bool:
        row = self.rows.get(file.path)
        if not row or (row["bytes"], row["modified_ns"]) != (file.bytes, file.modified_ns):
            return False
        if row["problem"] and not row["content"]:  # It could not be opened; now perhaps it can.
            return False
        if row["missing"]:  # It is back.
            self.new_rows.append({**row, "missing": False})
        if row["problem"]:
            self.progress.failed += 1
        else:
            self.progress.unchanged += 1
        return True

    def _unreadable(self, source: ImageSource, error: ImageError | TypeError) -> None:
        for file in self._waited_for(source):
            self.fail(file, str(error).replace(display_name(str(source)), display_name(file.path)))

    def _waited_for(self, source: ImageSource | None) -> list[File]:
        """The files of one content, the first of which was given to the encoder as this source."""
        found = next(key for key, files in self.waiting.items() if files[0].path == source)
        return self.waiting.pop(found)

    def _put(self, file: File, facts: Mapping[str, Any]) -> None:
        problem = facts.get("problem")
        known = dict(zip(FACTS, _facts(facts), strict=True))
        self.new_rows.append(file.row(**known, problem=problem))

    def _write_some(self) -> None:
        windows = sum(len(picture["number"]) for picture in self.new_windows)
        late = time.monotonic() - self.written > SECONDS_AT_ONCE
        if windows >= WINDOWS_AT_ONCE or (late and self.new_rows):
            self._write()

    def _write(self) -> None:
        """Windows first, then what says that they are there."""
        self.store.add_windows(self.new_windows)
        rows = {row["path"]: row for row in self.new_rows}
        new = {path for path in rows if path not in self.rows and hash(path) not in self.added}
        self.store.add_pictures([rows[path] for path in rows if path in new])
        self.store.put_pictures([rows[path] for path in rows if path not in new])
        self.added.update(map(hash, new))
        self.rows.update((path, dict(row)) for path, row in rows.items() if path in self.rows)
        self.new_windows, self.new_rows = [], []
        self.written = time.monotonic()

    def _see_to_missing(self, folders: list[Path], prune: bool) -> None:
        """Mark or drop what is gone, and the windows that nobody has any more."""
        below = [os.path.join(os.path.abspath(folder), "") for folder in folders]
        gone = [
            row
            for path, row in self.rows.items()
            if any(path.startswith(folder) for folder in below) and not os.path.lexists(path)
        ]
        self.progress.missing = len(gone)
        if prune:
            self.store.drop_pictures(row["path"] for row in gone)
            self.progress.pruned = len(gone)
        else:
            self.store.put_pictures(
                [{**row, "missing": True} for row in gone if not row["missing"]]
            )
        self._drop_unfinished()


def windows_of(encoded: Encoded, content: str, localizer: Localizer) -> dict[str, Any]:
    """The rows of the windows of an encoded picture."""
    scale = localizer.encoder.logit_scale
    weights = negatives_weight(encoded.embeddings, localizer.bank, scale).numpy()
    short = min(encoded.picture.pixels.shape[:2])
    sides = [
        np.full(len(grid), grid.side * np.min(np.divide(grid.picture, grid.level)) / short)
        for grid in encoded.grids
    ]
    return window_rows(
        content,
        np.concatenate(sides).astype(np.float32),
        encoded.boxes,
        stored_vectors(encoded.embeddings.numpy(), weights, scale),
    )


def content_of(path: str) -> str:
    """A hash of a file's bytes. Raises OSError."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    with open(path, "rb") as file:
        while part := file.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def origin_of(path: str) -> Origin:
    """`images.read_origin` of a picture that has been read."""
    try:
        return read_origin(path)
    except ImageError:  # It has been read a moment ago; whoever changed it will be told next time.
        return Origin()


def _facts(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in FACTS)
