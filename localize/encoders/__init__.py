"""Image and text encoders with one embedding space.

Knows the `Encoder` protocol and the dual encoders of transformers and open_clip; must not know
windows or boxes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from localize.encoders import checkpoint, open_clip_checkpoint
from localize.encoders.checkpoint import load_checkpoint
from localize.encoders.checks import check_crop_embeddings, check_prompt_embeddings
from localize.encoders.compiled import (
    Calibration,
    CompiledEncoder,
    Source,
    compile_if_possible,
)
from localize.encoders.device import choose_device
from localize.encoders.errors import EMBEDDED, CheckpointError
from localize.encoders.folders import identity
from localize.encoders.hub import Files, find_files
from localize.encoders.hugging_face import HuggingFaceEncoder
from localize.encoders.open_clip_checkpoint import PREFIX, load_open_clip, tagged_repository
from localize.encoders.open_clip_encoder import OpenClipEncoder
from localize.encoders.protocol import Encoder
from localize.encoders.towers import TowerEncoder

__all__ = [
    "Calibration",
    "CheckpointError",
    "CompiledEncoder",
    "Encoder",
    "HuggingFaceEncoder",
    "OpenClipEncoder",
    "check_crop_embeddings",
    "check_prompt_embeddings",
    "checkpoint_identity",
    "load_encoder",
]


def load_encoder(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    compile: bool = False,
    unpickle: bool = False,
    calibration: Calibration | None = None,
) -> Encoder:
    """Load an encoder by name: ``"emoji"`` (shipped), a local folder, or a Hugging Face hub id.

    Folders and hub models may be in transformers' layout or in open_clip's, which needs the extra
    ``open-clip``; ``"open_clip:ARCHITECTURE/TAG"`` is the hub model of a tag of open_clip's own.
    A hub id may have a branch, tag or commit behind it (``"owner/name@revision"``). A hub model
    that is in the hub's local cache is taken from there without a request.

    `device` is ``"auto"`` (CUDA, MPS, else CPU) or a torch device; `dtype` is ``"auto"`` (bfloat16
    where the hardware has it, else float32), ``"float32"``, ``"bfloat16"`` or ``"float16"``, or on
    a CPU ``"int8"``, which a model's first use is quantized to on the crops of `calibration`.
    `compile` makes the towers graphs that are kept: on a CPU with OpenVINO where the extra is
    installed (see `compiled`), elsewhere with torch.compile. `unpickle` lets weights that exist
    only as a pickle (``pytorch_model.bin``) be opened, by torch's weights-only unpickler.

    Raises CheckpointError (a ValueError) for a checkpoint that is missing, incomplete, damaged,
    pickled, in need of custom code, or no dual encoder, and ValueError for an impossible device or
    dtype.

    What is loaded is pickled as these arguments, so that it goes to other processes cheaply and is
    loaded again there, on the device that "auto" finds.
    """
    chosen = choose_device(device)
    files = _find_checkpoint(name, unpickle)

    def load(**settings: Any) -> TowerEncoder:
        if files.layout.library == "open_clip":
            return OpenClipEncoder(load_open_clip(files), **settings)
        return HuggingFaceEncoder(load_checkpoint(files), **settings)

    encoder: TowerEncoder | CompiledEncoder | None = None
    if dtype == "int8" or (compile and chosen.type == "cpu"):
        source = Source(files.name, _identity(files), lambda: load(device="cpu", dtype="float32"))
        encoder = compile_if_possible(source, chosen, dtype, calibration)
    if encoder is None:
        encoder = load(device=chosen, dtype=dtype, compile=compile)
    place = _from_anywhere(name)
    encoder.reload = partial(
        load_encoder, place, device=device, dtype=dtype, compile=compile, unpickle=unpickle
    )
    return encoder


def _identity(files: Files) -> str:
    """A hash of a checkpoint and what loads it, told without importing that."""
    package = "open_clip_torch" if files.layout.library == "open_clip" else "transformers"
    try:
        return identity(files, f"{package} {version(package)}")
    except PackageNotFoundError:  # loading will say so
        return identity(files, package)


def _from_anywhere(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A model's name that leads to it from any other folder too."""
    folder = os.path.expanduser(name)
    return os.path.abspath(folder) if name != EMBEDDED and os.path.isdir(folder) else name


def checkpoint_identity(name: str | os.PathLike[str], *, unpickle: bool = False) -> str:
    """A hash that changes with a model's files; of a hub model they are fetched for it.

    Raises CheckpointError where `load_encoder` would not find the files.
    """
    return identity(_find_checkpoint(name, unpickle), "")


def checkpoint_bytes(name: str | os.PathLike[str], *, unpickle: bool = False) -> int:
    """The size of a model's weights on the disk; of a hub model they are fetched for it.

    Raises CheckpointError where `load_encoder` would not find the files.
    """
    files = _find_checkpoint(name, unpickle)
    return sum((files.folder / weights).stat().st_size for weights in files.layout.weights)


def _find_checkpoint(name: str | os.PathLike[str], unpickle: bool) -> Files:
    if isinstance(name, str) and name.startswith(PREFIX):
        repository = tagged_repository(name)
        files = find_files(repository, unpickle=unpickle, check=_check_kind)
        return replace(files, name=name)
    return find_files(name, unpickle=unpickle, check=_check_kind)


def _check_kind(files: Files) -> None:
    """Raise CheckpointError if a model's small files tell that it cannot be used."""
    if files.layout.library == "open_clip":
        open_clip_checkpoint.check_kind(files)
    else:
        checkpoint.check_kind(files)
