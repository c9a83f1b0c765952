"""Graphs kept in the user's cache folder, so that a tower is compiled once a machine.

Knows one file a graph; must not know what a graph computes nor OpenVINO. A file is safetensors: the
weights as one tensor of bytes, and as metadata what the graph was made of, the graph's XML and a
digest of it all. None of that is code. A file that is damaged, or of something else than its name
says, is removed and counts as none.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localize.encoders.text_cache import cache_folder
from localize.files import remove_abandoned, write_bytes

MAX_BYTES = 4 << 30  # of all graphs together; the longest unused go first


@dataclass(frozen=True)
class Stored:
    """A graph as it lies in a file."""

    xml: bytes
    weights: npt.NDArray[np.uint8]
    facts: dict[str, Any]  # JSON: what its user has to know besides


def read(made_of: str) -> Stored | None:
    """The graph that was made of these things (any text that tells them all), if it is there."""
    from safetensors import SafetensorError, safe_open

    path = _path(made_of)
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata, weights = file.metadata(), file.get_tensor("weights")
        xml = metadata["graph"].encode()
        if metadata["digest"] == _digest(made_of, xml, weights, metadata["facts"]):
            os.utime(path)  # the order in which graphs are removed
            return Stored(xml, weights, json.loads(metadata["facts"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        pass
    with suppress(OSError):
        path.unlink()
    return None


def write(made_of: str, graph: Stored) -> None:
    """Keep a graph, and remove others where all are too large; no error where it cannot be."""
    from safetensors.numpy import save

    path = _path(made_of)
    if path is None or graph.weights.nbytes > MAX_BYTES:
        return
    facts = json.dumps(graph.facts)
    digest = _digest(made_of, graph.xml, graph.weights, facts)
    metadata = {"graph": graph.xml.decode(), "facts": facts, "digest": digest}
    try:
        write_bytes(path, save({"weights": graph.weights}, metadata))
        remove_abandoned(path.parent)
        _bound(path.parent)
    except OSError:
        pass


def _path(made_of: str) -> Path | None:
    folder = cache_folder()
    name = hashlib.sha256(made_of.encode()).hexdigest()[:32]
    return None if folder is None else folder / f"graph-{name}.safetensors"


def _digest(made_of: str, xml: bytes, weights: npt.NDArray[np.uint8], facts: str) -> str:
    digest = hashlib.sha256(json.dumps([made_of, facts]).encode())
    digest.update(xml)
    digest.update(weights.data)
    return digest.hexdigest()


def _bound(folder: Path) -> None:
    """Remove the graphs that have not been used for longest until the rest fit."""
    statuses = {path: path.stat() for path in folder.glob("graph-*.safetensors")}
    total = 0
    for path in sorted(statuses, key=lambda path: -statuses[path].st_mtime_ns):
        total += statuses[path].st_size
        if total > MAX_BYTES:
            path.unlink(missing_ok=True)
