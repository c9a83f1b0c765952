"""JSON in pieces, so that a file of many answers is never in memory as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any


def as_json(value: Any, indent: int | None = None) -> bytes:
    """JSON in UTF-8; what is no text in a name (an undecodable byte) is written as its escape."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")


def json_array(rows: Iterable[Any]) -> Iterator[bytes]:
    """An array of rows that are asked for one by one."""
    yield b"["
    for number, row in enumerate(rows):
        yield (b", " if number else b"") + as_json(row)
    yield b"]"
