"""Image and text encoders with one embedding space.

Knows the `Encoder` protocol and Hugging Face dual encoders; must not know windows or boxes.
"""

from __future__ import annotations

import os

import torch

from localize.encoders.checkpoint import CheckpointError
from localize.encoders.checks import check_crop_embeddings, check_prompt_embeddings
from localize.encoders.hugging_face import HuggingFaceEncoder
from localize.encoders.protocol import Encoder

__all__ = [
    "CheckpointError",
    "Encoder",
    "HuggingFaceEncoder",
    "check_crop_embeddings",
    "check_prompt_embeddings",
    "load_encoder",
]


def load_encoder(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    compile: bool = False,
) -> Encoder:
    """Load an encoder by name: ``"emoji"`` (shipped), a local folder, or a Hugging Face hub id.

    `device` is ``"auto"`` (CUDA, MPS, else CPU) or a torch device; `dtype` is ``"auto"`` (bfloat16
    where the hardware has it, else float32), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    `compile` is for `HuggingFaceEncoder`.

    Raises CheckpointError (a ValueError) for a checkpoint that is missing, incomplete, damaged,
    pickled, in need of custom code, or no dual encoder, and ValueError for an impossible device or
    dtype.
    """
    return HuggingFaceEncoder.from_pretrained(name, device=device, dtype=dtype, compile=compile)
