"""Encoders that are pickled as the way to load them again.

Knows pickle; must not know how encoders are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Reloadable:
    """Something with a name that, where `reload` says how, is pickled in a few hundred bytes."""

    name: str
    reload: Callable[[], Any] | None = None
    """Loads the same encoder again; what it is pickled as must be found in a module."""

    def __reduce__(self) -> tuple[Any, ...]:
        if self.reload is None:
            raise TypeError(
                f"{self.name} was not loaded by its name, so it cannot be pickled; "
                "load_encoder and Localizer.from_pretrained give what can be"
            )
        return _loaded_again, (self.name, self.reload)


def _loaded_again(name: str, reload: Callable[[], Any]) -> Any:
    """What a pickled encoder stands for; its name stays what it was."""
    encoder = reload()
    encoder.name = name
    return encoder
