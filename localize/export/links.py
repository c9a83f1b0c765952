"""A file of an export that is another file, where it lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """path: the whole path of the file that is meant."""

    path: str
