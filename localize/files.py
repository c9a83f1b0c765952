"""Finding inputs, writing whole or not at all, and what killed runs leave.

Knows files, folders and their names; must not know pixels or models.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from localize.names import display_name, os_reason

if sys.platform != "win32":
    import fcntl


class OutputError(OSError):
    """A file cannot be written. The message is one sentence that names it and says why."""


# Finding pictures -------------------------------------------------------------------------------


def find_images(
    inputs: Iterable[str | os.PathLike[str]], suffixes: Collection[str]
) -> tuple[list[Path], list[str]]:
    """The pictures that files, folders and globs name, and what is wrong with the rest.

    inputs: a file is taken whatever its name ends with; of a folder and the folders in it, the
        files with one of the suffixes, without hidden ones; a glob ("photos/*.jpg", "**" for any
        folders) is what it matches. A file or folder of that very name goes before a glob.
    suffixes: endings of names in lower case, with their dot.
    Returns the paths in the order of the inputs, sorted within a folder or glob, each once, and one
    sentence for each input that gives none.
    """
    paths: dict[str, Path] = {}
    problems: list[str] = []
    for each in inputs:
        name = os.fsdecode(each)
        found = [name] if os.path.lexists(name) else sorted(_matches(name))
        if not found:
            problems.append(f"cannot read {display_name(name)}: there is no such file or folder")
        for path in found:
            files = _pictures_in(path, suffixes, problems) if os.path.isdir(path) else [path]
            for file in files:
                paths.setdefault(os.path.abspath(file), Path(file))
    return list(paths.values()), problems


def is_found(name: str) -> bool:
    """Whether there is a file or folder of this name, or one that a glob of this name matches."""
    return os.path.lexists(name) or next(_matches(name), None) is not None


def _matches(pattern: str) -> Iterator[str]:
    """What a glob matches, hidden files only where it says so.

    Nothing behind a link to a folder that a wildcard would have to follow.

    Not the module glob: its "**" follows links to folders, round and round.
    """
    anchor = Path(pattern).anchor
    parts = Path(pattern).parts
    hidden = any(map(_is_hidden, parts))
    plain = sum(1 for _ in takewhile(lambda part: not set("*?[").intersection(part), parts))
    try:
        for path in Path(anchor).glob(pattern[len(anchor) :]):
            if (hidden or not any(map(_is_hidden, path.parts))) and not _is_behind_link(
                path, plain
            ):
                yield str(path)
    except (OSError, ValueError, NotImplementedError):
        # No pattern, or a name with a null character, or longer than names can be.
        return


def _is_behind_link(path: Path, plain: int) -> bool:
    """Whether a part of the path after the first `plain` ones is a link to a folder."""
    steps = [path, *path.parents][: len(path.parts) - plain]
    return any(step.is_symlink() and step.is_dir() for step in steps)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and name != ".."


def _pictures_in(folder: str, suffixes: Collection[str], problems: list[str]) -> list[str]:
    """The pictures in a folder and those in it, sorted; appends to `problems` what is wrong."""

    def refuse(path: str, why: str) -> None:
        problems.append(f"cannot read {display_name(path)}: {why}")

    found: list[str] = []
    known = len(problems)
    for path, folders, files in os.walk(
        folder, onerror=lambda error: refuse(str(error.filename), os_reason(error))
    ):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        pictures = [
            os.path.join(path, name) for name in sorted(files) if _ends_with(name, suffixes)
        ]
        found += pictures
        # A folder named like a picture is most likely meant to be one.
        if path != folder and _ends_with(path, suffixes) and not (folders or pictures):
            refuse(path, "it is a folder")
    if not found and len(problems) == known:
        refuse(folder, "there are no pictures in this folder")
    return found


def _ends_with(path: str, suffixes: Collection[str]) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


# Writing ----------------------------------------------------------------------------------------

_WRITERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def write_bytes(path: str | os.PathLike[str], data: bytes | Iterable[bytes]) -> None:
    """Write a file, or one that comes in pieces, whole or not at all; missing folders are made.

    The data go to a hidden file beside it, to the disk, and then take the name in one step, so
    that neither a full disk nor a killed process leaves half a file under it.

    Raises OutputError, an OSError, when it cannot be written.
    """
    write_together([path], [data])


def write_together(
    paths: Sequence[str | os.PathLike[str]],
    contents: Iterable[bytes | Iterable[bytes]],
    instead_of: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Write files that belong together, as `together` does.

    contents: the data of each, asked for one by one.

    Raises OutputError, an OSError, when one cannot be written; then none is, and nothing is lost.
    """
    with together(paths, instead_of) as parts:
        for path, part, data in zip(paths, parts, contents, strict=True):
            with _named(os.fsdecode(path)):
                _fill(part, data)


@contextmanager
def together(
    paths: Sequence[str | os.PathLike[str]], instead_of: Iterable[str | os.PathLike[str]] = ()
) -> Iterator[list[str]]:
    """Files of one folder, written whole and together: where the last one is, so are the others.

    Gives the names of hidden files, one a path, to be filled. At the end the last one's predecessor
    goes and each takes its name, the last one last. Of two processes that write the same files at
    once, the slower one's stay, all of them. After an error none is written, and nothing is lost.

    instead_of: files to be removed at the end, if they are there; not asked for before no other
        process is writing into the folder.

    Raises OutputError, an OSError, when one cannot be written.
    """
    targets = [os.fsdecode(path) for path in paths]
    parts: list[tuple[str, int | None]] = []
    try:
        for target in targets:
            with _named(target):
                parts.append(_new_part(_ready_folder(target)))
        yield [part for part, _ in parts]
        *others, last = targets
        with _named(last), _alone_in(os.path.dirname(last)):
            for stale in (*(others and [last]), *map(os.fsdecode, instead_of)):
                with suppress(FileNotFoundError):
                    os.unlink(stale)
            for target, (part, _) in zip(targets, parts, strict=True):
                os.replace(part, target)
    finally:  # Ctrl-C too must leave nothing behind.
        for part, lock in parts:
            with suppress(OSError):
                os.unlink(part)
            if lock is not None:
                os.close(lock)


def write_link(path: str | os.PathLike[str], source: str) -> None:
    """Make a symbolic link to a file in one step; a copy of the file where there are no links.

    Raises OutputError when it cannot be written.
    """
    target = os.fsdecode(path)
    with _named(target):
        part, lock = _new_part(_ready_folder(target))
        try:
            os.unlink(part)
            try:
                os.symlink(os.path.abspath(source), part)
            except OSError:
                shutil.copyfile(source, part)
            os.replace(part, target)
        finally:
            with suppress(OSError):
                os.unlink(part)
            if lock is not None:
                os.close(lock)


@contextmanager
def _named(target: str) -> Iterator[None]:
    """Turn what goes wrong with a file into one sentence about it."""
    try:
        yield
    except OutputError:
        raise
    except FileExistsError as error:
        reason = f"{display_name(os.path.dirname(target))} is not a folder"
        raise OutputError(f"cannot write {display_name(target)}: {reason}") from error
    except (OSError, ValueError) as error:
        raise _unwritable(display_name(target), error) from error


def _ready_folder(target: str) -> str:
    """The folder that a file can be written into, made where there is none."""
    try:
        mode = os.stat(target).st_mode
    except (OSError, ValueError):  # Writing it will say why, if it is more than not there.
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "device or pipe"
        raise OutputError(f"cannot write {display_name(target)}: it is a {kind}")
    folder = os.path.dirname(target)
    if folder:
        os.makedirs(folder, exist_ok=True)
    return folder


def _fill(part: str, data: bytes | Iterable[bytes]) -> None:
    with open(part, "wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Let one process at a time give files in a folder their names, where folders have locks."""
    if sys.platform == "win32":
        yield
        return
    lock = os.open(folder or ".", os.O_RDONLY)
    try:
        with suppress(OSError):  # Not every file system has locks.
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _unwritable(what: str, error: OSError | ValueError) -> OutputError:
    reason = error.strerror if isinstance(error, OSError) else None
    return OutputError(f"cannot write {what}: {(reason or str(error)).lower()}")


def _new_part(folder: str) -> tuple[str, int | None]:
    """A new hidden file, and the lock on it (where there are such) that ends with its writer."""
    while True:
        part = os.path.join(folder, f".localize-{secrets.token_hex(8)}.tmp")
        lock = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if sys.platform == "win32":  # There a file that is open cannot take another name.
            os.close(lock)
            return part, None
        with suppress(OSError):  # Not every file system has locks.
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.lexists(part):
            return part, lock
        os.close(lock)  # `remove_abandoned` was quicker than the lock.


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove the hidden files that killed processes have left in a folder; best done before a run.

    What a living process is writing is locked, and stays. On Windows, and on file systems without
    locks, nothing is removed.
    """
    if sys.platform == "win32":
        return
    for path in Path(folder).glob(f".localize-{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError):
            # Neither a link's target nor, should somebody have put one there, a pipe.
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(lock)


def check_target(path: str | os.PathLike[str]) -> None:
    """See that a file can be written, before work is done for it; makes its folder.

    Raises OutputError when not.
    """
    target = os.fsdecode(path)
    with _named(target):
        make_folder(_ready_folder(target))


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder where there is none, and see that files can be written into it.

    Raises OutputError when not.
    """
    name = os.fsdecode(folder)
    try:
        os.makedirs(name or ".", exist_ok=True)
        with tempfile.TemporaryFile(dir=name or "."):
            pass
    except (OSError, ValueError) as error:
        raise _unwritable(f"to {display_name(name)}", error) from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write plain data as UTF-8 JSON, whole or not at all.

    What is no text in a name (an undecodable byte) is written as its escape, so that reading
    gives the same name again.

    Raises OutputError as `write_bytes` does, ValueError for NaN and infinity.
    """
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
    # For a lone surrogate Python's escape is JSON's escape too.
    return f"{text}\n".encode("utf-8", "backslashreplace")


PNG_LEVEL = 3
"""Of zlib. Overlays of photos take as much room as with its default, 6, in a fourth of the time."""

SIGNATURE = "localize"
"""Stands in the PNG files that `write_image` writes, as the software that made them."""


def is_written_here(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a PNG that `write_image` wrote; False for what cannot be read."""
    if not os.path.isfile(path):  # Opening a pipe would wait for ever.
        return False
    try:
        with open(path, "rb") as file:
            return f"Software\0{SIGNATURE}".encode() in file.read(128)
    except OSError:
        return False


def write_image(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Write a PIL image, whole or not at all, as PNG, JPEG or WebP by the ending of the name.

    Raises OutputError as `write_bytes` does, and for other endings.
    """
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    if suffix not in _WRITERS:
        raise OutputError(f"cannot write {display_name(path)}: use .png, .jpg or .webp")
    try:
        data = image_bytes(image, _WRITERS[suffix])
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {display_name(path)}: {error}") from error
    write_bytes(path, data)


def image_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    """An image file of a PIL image; a PNG is signed, so that `is_written_here` knows it."""
    data, signed = BytesIO(), PngImagePlugin.PngInfo()
    signed.add_text("Software", SIGNATURE)
    options: dict[str, Any] = {"quality": 90}
    if kind == "PNG":
        options = {"pnginfo": signed, "compress_level": PNG_LEVEL}
    image.save(data, kind, **options)
    return data.getvalue()
