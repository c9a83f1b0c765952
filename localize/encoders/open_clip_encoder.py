"""Dual encoders of open_clip as an `Encoder`.

Knows how open_clip's models are asked; must not know files, windows, templates or boxes.
"""

from __future__ import annotations

from typing import Any

import torch

from localize.encoders.errors import CheckpointError
from localize.encoders.open_clip_checkpoint import OpenClipCheckpoint
from localize.encoders.open_clip_tokens import token_reader
from localize.encoders.towers import TowerEncoder, Towers


class OpenClipEncoder(TowerEncoder):
    """Any open_clip model with ``encode_image`` and ``encode_text``."""

    def __init__(
        self,
        checkpoint: OpenClipCheckpoint,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
    ) -> None:
        """Put a checkpoint on a device; see `TowerEncoder`."""
        super().__init__(_towers(checkpoint), device=device, dtype=dtype, compile=compile)


def describe(checkpoint: OpenClipCheckpoint) -> tuple[int, bool]:
    """The side in pixels of the crops that a model takes, and whether its tokens are known.

    The model may be on the device "meta". Raises CheckpointError for one of no use here.
    """
    model = checkpoint.model
    return _image_size(model, checkpoint.name), token_reader(model) is not None


def _towers(checkpoint: OpenClipCheckpoint) -> Towers:
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    image_size = _image_size(model, checkpoint.name)
    bilinear = checkpoint.preprocessing["interpolation"] == "bilinear"

    def tokenize(texts: list[str]) -> tuple[list[list[int]], list[str]]:
        cut = [
            text
            for text, length in zip(texts, _lengths(tokenizer, texts), strict=True)
            if length > checkpoint.context_length
        ]
        return tokenizer(texts).tolist(), cut

    return Towers(
        name=checkpoint.name,
        identity=checkpoint.identity,
        model=model,
        image_size=image_size,
        mean=checkpoint.preprocessing["mean"],
        std=checkpoint.preprocessing["std"],
        interpolation="bilinear" if bilinear else "bicubic",
        logit_scale=float(model.logit_scale.detach().float().exp()),
        negatives=checkpoint.negatives,
        embed_crops=model.encode_image,
        embed_ids=model.encode_text,
        tokenize=tokenize,
        max_length=checkpoint.context_length,
        vocabulary=checkpoint.vocabulary,
        token_reader=token_reader,
        activation=_activation(model, image_size),
    )


def _image_size(model: Any, name: str) -> int:
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise CheckpointError(
            f"{name} takes pictures of {width} x {height} pixels; only square ones can be used"
        )
    return int(height)


def _lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    """Tokens of each text as it is, special ones included."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:  # open_clip's own: a start, the text, an end
        return [len(tokenizer.encode(text)) + 2 for text in texts]
    rows = inner([tokenizer.clean_fn(text) for text in texts], verbose=False)["input_ids"]
    return [len(row) for row in rows]


def _activation(model: Any, image_size: int) -> int:
    """Numbers in the widest activation of one crop's forward, about."""
    tower = model.visual
    trunk = getattr(tower, "trunk", tower)
    patches = getattr(trunk, "patch_embed", trunk)
    patch = getattr(patches, "patch_size", None)
    if patch is None:  # convolutional: the first stage has the largest maps
        return (image_size // 4) ** 2 * 4 * 96
    width = getattr(trunk, "embed_dim", None) or trunk.transformer.width
    return int((image_size // max(patch)) ** 2 * 4 * width)
