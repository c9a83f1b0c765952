"""Dual encoders of Hugging Face transformers as an `Encoder`.

Knows how transformers' models are asked; must not know files, windows, templates or boxes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from PIL import Image

from localize.encoders.checkpoint import Checkpoint
from localize.encoders.errors import CheckpointError
from localize.encoders.hugging_face_tokens import token_reader
from localize.encoders.towers import TowerEncoder, Towers

# SigLIP and SigLIP 2 were trained on lower-case texts padded to the full length, padding attended.
SIGLIP = ("siglip", "siglip2")
NO_SCALE = "this model has no logit scale or temperature, so it is no CLIP-like model"


class HuggingFaceEncoder(TowerEncoder):
    """Any transformers model with ``get_image_features`` and ``get_text_features``.

    CLIP, SigLIP, SigLIP 2 (fixed size and NaFlex), MetaCLIP 2, AltCLIP, Chinese-CLIP, ALIGN,
    CLIPSeg, AIMv2, BLIP, TIPSv2 and VisionTextDualEncoder are tested.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
    ) -> None:
        """Put a checkpoint on a device; see `TowerEncoder`."""
        super().__init__(_towers(checkpoint), device=device, dtype=dtype, compile=compile)


def describe(checkpoint: Checkpoint) -> tuple[int, bool]:
    """The side in pixels of the crops that a model takes, and whether its tokens are known.

    The model may be on the device "meta". Raises CheckpointError for one of no use here.
    """
    model = checkpoint.model
    if not (hasattr(model, "logit_scale") or hasattr(model, "temperature")):
        raise CheckpointError(NO_SCALE)
    image_size, _, _ = _measure(checkpoint.image_processor, model)
    return image_size, token_reader(model) is not None


def _towers(checkpoint: Checkpoint) -> Towers:
    model, tokenizer, processor = (
        checkpoint.model,
        checkpoint.tokenizer,
        checkpoint.image_processor,
    )
    image_size, mean, std = _measure(processor, model)
    bilinear = getattr(processor, "resample", None) == Image.Resampling.BILINEAR
    max_length = _max_length(model, tokenizer)
    siglip = model.config.model_type in SIGLIP

    def embed_crops(pixels: torch.Tensor) -> torch.Tensor:
        return _pooled(model.get_image_features(**_image_inputs(model, pixels)))

    def embed_ids(ids: torch.Tensor) -> torch.Tensor:
        return _pooled(model.get_text_features(input_ids=ids))

    def tokenize(texts: list[str]) -> tuple[list[list[int]], list[str]]:
        given = [text.lower() for text in texts] if siglip else texts
        rows = tokenizer(given, verbose=False)["input_ids"]
        cut = [text for text, row in zip(texts, rows, strict=True) if len(row) > max_length]
        if cut or siglip:
            padding = "max_length" if siglip else False
            limits = {"truncation": True, "max_length": max_length, "padding": padding}
            rows = tokenizer(given, **limits)["input_ids"]
        return rows, cut

    return Towers(
        name=checkpoint.name,
        identity=checkpoint.identity,
        model=model,
        image_size=image_size,
        mean=mean,
        std=std,
        interpolation="bilinear" if bilinear else "bicubic",
        logit_scale=_logit_scale(model),
        negatives=checkpoint.negatives,
        embed_crops=embed_crops,
        embed_ids=embed_ids,
        tokenize=tokenize,
        max_length=max_length,
        vocabulary=model.config.text_config.vocab_size,
        token_reader=token_reader,
        activation=_activation(model, image_size),
        tokenizer=_portable(tokenizer, max_length, siglip),
    )


def _portable(tokenizer: Any, max_length: int, siglip: bool) -> str | None:
    """What `tokenize` does, as JSON of the library tokenizers, if that is what it runs on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    from tokenizers import Tokenizer, normalizers

    portable = Tokenizer.from_str(backend.to_str())
    portable.enable_truncation(max_length, direction=tokenizer.truncation_side)
    portable.no_padding()
    if siglip:
        portable.enable_padding(
            direction=tokenizer.padding_side,
            pad_id=tokenizer.pad_token_id,
            pad_token=tokenizer.pad_token,
            length=max_length,
        )
        steps = [normalizers.Lowercase(), *filter(None, [portable.normalizer])]
        portable.normalizer = normalizers.Sequence(steps)
    return str(portable.to_str())


def _image_inputs(model: Any, pixels: torch.Tensor) -> dict[str, Any]:
    """What the model's get_image_features takes for crops (B, 3, S, S)."""
    if model.config.model_type != "siglip2":
        return {"pixel_values": pixels}
    # NaFlex takes a list of flattened patches, each (row, column, channel).
    patch = model.config.vision_config.patch_size
    side = pixels.shape[-1] // patch
    patches = pixels.reshape(-1, 3, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1)
    patches = patches.reshape(-1, side * side, patch * patch * 3)
    shapes = torch.full((len(pixels), 2), side)
    return {"pixel_values": patches, "pixel_attention_mask": None, "spatial_shapes": shapes}


def _pooled(output: Any) -> torch.Tensor:
    """The pooled vectors (B, D) in the output of get_image_features or get_text_features."""
    pooled = output if isinstance(output, torch.Tensor) else output.pooler_output
    if pooled is None or pooled.ndim != 2:
        raise CheckpointError(
            "this model pools no single vector for an image or a text, so it cannot be used here; "
            "try a CLIP or SigLIP checkpoint, or 'emoji'"
        )
    return pooled


def _measure(
    processor: Any, model: Any
) -> tuple[int, tuple[float, float, float], tuple[float, float, float]]:
    """The image size, mean and std that a checkpoint's image processor really applies.

    Measured on a black and a white picture, because the settings of processors differ (offsets,
    factors, crops): black gives -mean/std and white (1 - mean)/std.
    """
    black, white = (
        np.asarray(processor(Image.new("RGB", (64, 64), colour))["pixel_values"][0], np.float64)
        for colour in ("black", "white")
    )
    if black.ndim == 2:  # NaFlex: patches (N, patch * patch * 3)
        size = math.isqrt(len(black)) * math.isqrt(black.shape[1] // 3)
        first, last = black[0, :3], white[0, :3]
    else:
        size = _native_size(model, black.shape[-1])
        first, last = black[:, size // 2, size // 2], white[:, size // 2, size // 2]
    std = 1 / (last - first)
    return size, tuple((-first * std).tolist()), tuple(std.tolist())


def _native_size(model: Any, processed: int) -> int:
    """The image size the tower was made for; position embeddings of most fit no other one."""
    embeddings = getattr(getattr(model, "vision_model", None), "embeddings", None)
    positions = getattr(embeddings, "position_embedding", None)
    own = getattr(model.config.vision_config, "image_size", None)
    resizes = model.config.model_type == "clipseg"
    return processed if positions is None or resizes or own is None else int(own)


def _activation(model: Any, image_size: int) -> int:
    """Numbers in the widest activation of one crop's forward, about."""
    tower = model.config.vision_config
    patch = getattr(tower, "patch_size", 16)
    stages = getattr(tower, "hidden_sizes", None) or [getattr(tower, "hidden_size", 768)]
    width = getattr(tower, "intermediate_size", 4 * stages[0])
    return int((image_size // patch) ** 2 * width)


def _logit_scale(model: Any) -> float:
    if hasattr(model, "logit_scale"):
        scale = float(model.logit_scale.detach().float().exp())
        return min(scale, getattr(model.config, "max_logit_scale", scale))  # AIMv2 has a limit
    if hasattr(model, "temperature"):  # ALIGN divides by it
        return float(1 / model.temperature.detach().float())
    raise CheckpointError(NO_SCALE)


def _max_length(model: Any, tokenizer: Any) -> int:
    """The most tokens the text tower takes, special ones included."""
    config = model.config.text_config
    positions = config.max_position_embeddings
    roberta = {"roberta", "xlm-roberta", "camembert", "altclip_text_model"}
    if config.model_type in roberta:
        positions -= config.pad_token_id + 1  # their positions are counted from there
    return int(min(positions, tokenizer.model_max_length))
