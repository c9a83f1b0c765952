"""Memory that is free given back to the machine.

Knows the C library's allocator; must not know what the memory was for.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Return what is free, wherever it lies, where the C library is glibc.

    It keeps freed blocks between those that are in use. With large ones of ever other sizes that
    come and go a server's memory would grow for a long time beyond what it needs.
    """
    _trim()(0)


@cache
def _trim() -> Callable[[int], object]:
    if platform.libc_ver()[0] != "glibc":
        return lambda pad: None
    trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    return trim
