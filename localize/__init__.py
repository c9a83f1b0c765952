"""Zero-shot object localization: an image and some words in; where they are, out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localize.detector import ZeroShotDetector
    from localize.encoding import Encoded
    from localize.index import Hit, Index
    from localize.localizer import Localizer
    from localize.options import Options
    from localize.prompts import Prompt
    from localize.result import Box, Localization

__all__ = [
    "Box",
    "Encoded",
    "Hit",
    "Index",
    "Localization",
    "Localizer",
    "Options",
    "Prompt",
    "ZeroShotDetector",
]
__version__ = "0.2.0"

_HOMES = {
    "Box": "localize.result",
    "Encoded": "localize.encoding",
    "Hit": "localize.index",
    "Index": "localize.index",
    "Localization": "localize.result",
    "Localizer": "localize.localizer",
    "Options": "localize.options",
    "Prompt": "localize.prompts",
    "ZeroShotDetector": "localize.detector",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that the command line's help loads no torch."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'localize' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names too, before their first use: completion asks here."""
    return sorted({*globals(), *__all__})
