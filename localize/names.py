"""How names and messages are printed: on one line, with nothing in them that would not show.

Knows texts; must not know files or pixels.
"""

from __future__ import annotations

import os


def display_name(path: str | os.PathLike[str]) -> str:
    """A path as one line of printable text: line breaks, control and undecodable bytes escaped."""
    return printable(os.fsdecode(path)) or "''"


def printable(text: str) -> str:
    """The text with each character that would not show as itself written as its escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def os_reason(error: OSError) -> str:
    """Why a file cannot be opened, in words that go on a sentence about it."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, PermissionError):
        return "permission denied"
    return (error.strerror or str(error)).lower()
