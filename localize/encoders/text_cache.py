"""Text embeddings kept in memory and in the user's cache folder, so that they are computed once.

Knows texts, vectors and one file a model; must not know the model. The file is safetensors, written
beside its place and renamed, so that a reader sees a whole file or none; one that cannot be read is
no error, only a text encoded again.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import torch

from localize.files import write_bytes

MIN_SAVED = 32  # fewer new texts than these are quicker to encode than to write, after the first
MAX_TEXTS = 8192  # texts in one file
MAX_FILES = 16  # models in the folder


def cache_folder() -> Path | None:
    """The user's cache folder for this package (not made yet), None where there is no home.

    ``LOCALIZE_CACHE`` names another one; else it follows the platform's custom.
    """
    if chosen := os.environ.get("LOCALIZE_CACHE"):
        return Path(chosen).expanduser()
    try:
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "localize"


class TextCache:
    """Embeddings (float32, (D,), CPU) of texts under one model's identity. Safe between threads."""

    def __init__(self, identity: str) -> None:
        folder = cache_folder()
        self._path = None if folder is None else folder / f"texts-{identity[:32]}.safetensors"
        self._known: dict[str, torch.Tensor] | None = None
        self._saved_any = False
        self._lock = threading.Lock()

    def get(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """The embeddings that are known, by text."""
        with self._lock:
            if self._known is None:
                self._known = _read(self._path)
            return {text: self._known[text] for text in texts if text in self._known}

    def add(self, found: dict[str, torch.Tensor]) -> None:
        """Keep new embeddings; the first and many at a time reach the file too.

        For the first of a process its text tower had to be loaded, which the next one that is asked
        the same is spared.
        """
        with self._lock:
            self._known = _merge(self._known or {}, found)
            least = MIN_SAVED if self._saved_any else 1
            if self._path is not None and least <= len(found) <= MAX_TEXTS:
                self._saved_any = True
                # Another process may have added texts of its own since.
                _write(self._path, _merge(_read(self._path), found))


def _merge(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Both together, or where that would be too many the new ones alone."""
    return old | new if len(old) + len(new) <= MAX_TEXTS else new


def _read(path: Path | None) -> dict[str, torch.Tensor]:
    """What a cache file holds; nothing if it is missing, damaged or not ours."""
    from safetensors import SafetensorError, safe_open

    if path is None:
        return {}
    try:
        with safe_open(str(path), framework="pt") as file:
            texts = json.loads(file.metadata()["texts"])
            embeddings = file.get_tensor("embeddings")
        lengths = torch.linalg.vector_norm(embeddings, dim=1)
        if len(texts) != len(embeddings) or not torch.allclose(lengths, torch.ones(1), atol=1e-3):
            return {}
        return dict(zip(texts, embeddings, strict=True))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError, RuntimeError):
        return {}


def _write(path: Path, known: dict[str, torch.Tensor]) -> None:
    """Replace a cache file in one step; where the folder cannot be written, leave it be."""
    from safetensors.torch import save

    data = save(
        {"embeddings": torch.stack(list(known.values()))}, {"texts": json.dumps(list(known))}
    )
    try:
        write_bytes(path, data)
        newest = sorted(path.parent.glob("texts-*"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in newest[MAX_FILES:]:
            old.unlink(missing_ok=True)
    except OSError:
        pass
