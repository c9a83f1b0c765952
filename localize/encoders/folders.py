"""What is checked of a checkpoint's files before any library is asked to load them.

Knows folders, JSON and safetensors' headers; must not know what a model is made of.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from localize.encoders.errors import ADVICE, CheckpointError, first_sentence
from localize.encoders.hub import Files
from localize.encoders.layouts import CONFIGS, STEMS

# The first version of torch whose weights-only unpickler cannot be made to corrupt memory
# (CVE-2026-24747).
SAFE_UNPICKLER = "2.10"

# Buffers that older checkpoints carry and newer ones do not; their values are fixed.
_HARMLESS = re.compile(r"(position_ids|num_batches_tracked)$")


def check_files(folder: Path) -> None:
    """Refuse what would never end to be read, and what would bring in another model's weights."""
    try:
        for path in sorted(folder.iterdir()):
            if not (path.is_file() or path.is_dir()):
                raise CheckpointError(f"{path} is no plain file; remove it from the checkpoint")
            if path.name == "adapter_config.json":
                raise CheckpointError(
                    f"{folder} holds an adapter and no whole model; merge it into its model and "
                    f"save that, or {ADVICE}"
                )
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}); {ADVICE}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({first_sentence(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object, so it is no checkpoint; {ADVICE}")
    return content


def check_weights(files: Files) -> None:
    """Refuse a checkpoint without weights that may be opened, and files that are not whole."""
    from safetensors import SafetensorError, safe_open

    folder, layout = files.folder, files.layout
    if not layout.weights:
        wanted = f"{STEMS[layout.library, False][0]}.safetensors"
        found = f"only pickled ones ({layout.pickles[0]})" if layout.pickles else "none"
        cure = "open them with --unpickle (in Python unpickle=True) if you trust them, "
        raise CheckpointError(
            f"{folder} needs weights in {wanted} but has {found}; "
            f"{cure if layout.pickles else ''}save the model with save_pretrained, or try another "
            "checkpoint"
        )
    _check_index(files)
    if layout.pickled:
        if torch.torch_version.TorchVersion(torch.__version__) < SAFE_UNPICKLER:
            raise CheckpointError(
                f"{folder / layout.weights[0]} is a pickle, and those are opened only with torch "
                f"{SAFE_UNPICKLER} or newer (here is {torch.__version__}), "
                "whose unpickler is safe; install that, or save the model with save_pretrained"
            )
        return
    for path in (folder / name for name in layout.weights):
        try:
            with safe_open(str(path), framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is cut off or damaged ({first_sentence(error)}); copy or download it again"
            ) from error


def _check_index(files: Files) -> None:
    """Refuse an index that names other files than the shards: pickles, or something elsewhere."""
    for name in files.layout.others:
        if ".index" not in name:
            continue
        path = files.folder / name
        try:
            shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            missing = sorted(shards - set(files.layout.weights))
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} does not say which file holds which weights; copy or download it again"
            ) from error
        if missing:
            raise CheckpointError(
                f"{path} asks for {missing[0]!r}, which is none of the checkpoint's files of "
                "weights; copy or download the checkpoint again"
            )


def check_loaded(
    files: Files,
    *,
    mismatched: Sequence[tuple[str, Sequence[int], Sequence[int]]],
    missing: Sequence[str],
) -> None:
    """Refuse a model of which some weights are not the checkpoint's.

    mismatched: weights with the shape that was found and the one that the configuration asks for.
    """
    folder, config = files.folder, CONFIGS[files.layout.library]
    if mismatched:
        key, found, wanted = min(mismatched)
        raise CheckpointError(
            f"{folder}: the weight {key} has shape {tuple(found)} but {config} asks for "
            f"{tuple(wanted)}; the two are not of one checkpoint"
        )
    if missing := sorted(key for key in missing if not _HARMLESS.search(key)):
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing ({missing[0]} is the first); "
            f"the checkpoint is incomplete or not a whole dual encoder, so {ADVICE}"
        )


def read_negatives(path: Path) -> list[str] | None:
    """A JSON list of texts to score prompts against, which only our own checkpoints bring."""
    if not path.is_file():
        return None
    try:
        negatives = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        negatives = None
    if not isinstance(negatives, list) or not all(isinstance(text, str) for text in negatives):
        raise CheckpointError(f"{path} is not a JSON list of texts; correct or remove it")
    return negatives


def identity(files: Files, library: str) -> str:
    """A hash that changes when the files do, cheap for weights of any size.

    library: what loads them, with its version.
    """
    digest = hashlib.sha256(f"{library} {files.folder.resolve()}".encode())
    for path in (files.folder / name for name in files.layout.needed):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
        with path.open("rb") as file:
            file.seek(max(0, status.st_size - 65536))
            digest.update(file.read())
    return digest.hexdigest()
