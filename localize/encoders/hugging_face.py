"""Dual encoders of Hugging Face transformers as an `Encoder`.

Knows a loaded checkpoint's image and text towers; must not know windows, templates or boxes.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from localize.encoders.checkpoint import Checkpoint
from localize.encoders.device import choose_device, choose_dtype, exact_convolutions
from localize.encoders.errors import CheckpointError
from localize.encoders.hugging_face_tokens import token_reader
from localize.encoders.text_cache import TextCache

TEXT_BATCH = 256
# Numbers in the widest activation of one forward on the CPU. With many more it outgrows the caches:
# a ViT-B/16 takes a fifth longer for a crop at 16 crops a forward than at 4.
CPU_ACTIVATION = 3_000_000
COMPILED_BATCH = 64  # crops in one compiled forward, if memory and caches allow
# SigLIP and SigLIP 2 were trained on lower-case texts padded to the full length, padding attended.
SIGLIP = ("siglip", "siglip2")


class HuggingFaceEncoder:
    """Any transformers model with ``get_image_features`` and ``get_text_features``.

    CLIP, SigLIP, SigLIP 2 (fixed size and NaFlex), MetaCLIP 2, AltCLIP, Chinese-CLIP, ALIGN,
    CLIPSeg and VisionTextDualEncoder are tested. It implements the `Encoder` protocol; see there
    for shapes. Several threads may use one at a time. float32 means float32: its convolutions are
    not rounded to TF32.
    """

    negatives: list[str]  # only where the checkpoint brings a bank of its own

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
    ) -> None:
        """Put a checkpoint on a device.

        compile: run the image tower through torch.compile, here and now, for batches of one size,
            to which smaller ones are filled up. Takes a minute or so; embeddings keep a cosine of
            .999 with those of the tower as it is.

        Raises ValueError for an impossible device or dtype, and where compiling fails.
        """
        model = checkpoint.model
        self.name = checkpoint.name
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.logit_scale = _logit_scale(model)
        self.image_size, self.mean, self.std = _measure(checkpoint.image_processor, model)
        bilinear = (
            getattr(checkpoint.image_processor, "resample", None) == Image.Resampling.BILINEAR
        )
        self.interpolation = "bilinear" if bilinear else "bicubic"
        if checkpoint.negatives is not None:
            self.negatives = checkpoint.negatives
        self._model = model.to(self.device, self.dtype)
        self._crops_at_once = _crops_at_once(model, self.device, self.image_size)
        self._read_tokens = token_reader(model)
        self._tokenizer = checkpoint.tokenizer
        self._max_length = _max_length(model, checkpoint.tokenizer)
        self._cache = TextCache(_cache_identity(checkpoint.identity, self.device, self.dtype))
        self._said_truncated = False
        self._compiled: Any = None
        if compile:
            self._crops_at_once = min(self._crops_at_once, COMPILED_BATCH)
            self._compile()

    def encode_crops(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed crops (B, 3, S, S), normalised RGB, float32, on any device.

        Returns on the encoder's device unit-norm float32 embeddings (B, D) and unit-norm float32
        token embeddings (B, h, w, D), or None for a tower whose tokens are not known.
        """
        expected = (3, self.image_size, self.image_size)
        if crops.ndim != 4 or tuple(crops.shape[1:]) != expected:
            raise ValueError(f"crops have shape {tuple(crops.shape)}, not (B, {str(expected)[1:]}")
        with torch.inference_mode(), exact_convolutions:
            parts = [self._forward(part) for part in torch.split(crops, self._crops_at_once)]
            tokens = [part for _, part in parts if part is not None]
        # Outside inference mode, so that callers may change the vectors in place.
        embeddings = _unit(torch.cat([part for part, _ in parts]))
        return embeddings, _unit(torch.cat(tokens)) if tokens else None

    def encode_prompts(self, texts: list[str]) -> torch.Tensor:
        """Embed P texts as unit-norm float32 vectors (P, D) on the CPU, each text only once.

        A text that is too long is cut, with one warning for the first.
        """
        if not texts:
            return self.encode_prompts([""])[:0]
        # Command lines hand over bytes that are no valid text as lone surrogates.
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        found = self._cache.get(texts)
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        if missing:
            new = dict(zip(missing, self._embed_texts(missing), strict=True))
            self._cache.add(new)
            found |= new
        return torch.stack([found[text] for text in texts])

    def _forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings and tokens of crops, of any length and in the model's dtype."""
        pixels = crops.to(self.device, self.dtype)
        if self._compiled is None:
            return self._run_tower(pixels)
        count = len(pixels)
        filled = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, self._crops_at_once - count))
        embeddings, tokens = self._compiled(filled)
        return embeddings[:count], None if tokens is None else tokens[:count]

    def _run_tower(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        output = self._model.get_image_features(**self._image_inputs(pixels))
        return _pooled(output), None if self._read_tokens is None else self._read_tokens()

    def _compile(self) -> None:
        """Compile the image tower by running it once, so that failing to is told before work."""
        self._compiled = torch.compile(self._run_tower, dynamic=False)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # The compiler's notes are for its developers.
                self.encode_crops(torch.zeros(1, 3, self.image_size, self.image_size))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{self.name} cannot be compiled here, so use it without compiling; torch says: "
                f"{reason if len(reason) <= 200 else reason[:197] + '...'}"
            ) from error

    def _image_inputs(self, pixels: torch.Tensor) -> dict[str, Any]:
        """What the model's get_image_features takes for crops (B, 3, S, S)."""
        if self._model.config.model_type != "siglip2":
            return {"pixel_values": pixels}
        # NaFlex takes a list of flattened patches, each (row, column, channel).
        patch = self._model.config.vision_config.patch_size
        side = self.image_size // patch
        patches = pixels.reshape(-1, 3, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1)
        patches = patches.reshape(-1, side * side, patch * patch * 3)
        shapes = torch.full((len(pixels), 2), side)
        return {"pixel_values": patches, "pixel_attention_mask": None, "spatial_shapes": shapes}

    def _embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Encode P texts to unit-norm (P, D), in batches of one length: nothing is padded."""
        rows = self._tokenize(texts)
        order = sorted(range(len(texts)), key=lambda i: len(rows[i]))
        result: dict[int, torch.Tensor] = {}
        while order:
            length = len(rows[order[0]])
            batch = [i for i in order[:TEXT_BATCH] if len(rows[i]) == length]
            order = order[len(batch) :]
            ids = torch.tensor([rows[i] for i in batch], device=self.device)
            with torch.inference_mode():
                embeddings = _pooled(self._model.get_text_features(input_ids=ids))
            result |= zip(batch, _unit(embeddings).cpu(), strict=True)
        return torch.stack([result[i] for i in range(len(texts))])

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, none longer than the text tower takes."""
        siglip = self._model.config.model_type in SIGLIP
        if siglip:
            texts = [text.lower() for text in texts]
        rows = self._tokenizer(texts, verbose=False)["input_ids"]
        too_long = [
            text for text, row in zip(texts, rows, strict=True) if len(row) > self._max_length
        ]
        if too_long and not self._said_truncated:
            self._said_truncated = True
            shown = too_long[0] if len(too_long[0]) <= 60 else too_long[0][:57] + "..."
            warnings.warn(
                f"prompts over {self._max_length} tokens are cut, the first is {shown!r}",
                stacklevel=4,
            )
        if too_long or siglip:
            padding = "max_length" if siglip else False
            limits = {"truncation": True, "max_length": self._max_length, "padding": padding}
            rows = self._tokenizer(texts, **limits)["input_ids"]
        if max(max(row) for row in rows) >= self._model.config.text_config.vocab_size:
            raise CheckpointError(
                f"the tokenizer in {self.name} is not of the same model as the weights"
            )
        return rows  # type: ignore[no-any-return]


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors.float(), dim=-1)


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


def _crops_at_once(model: Any, device: torch.device, image_size: int) -> int:
    """Crops in one forward: on the CPU as many as its caches hold, elsewhere all there are."""
    if device.type != "cpu":
        return sys.maxsize
    tower = model.config.vision_config
    patch = getattr(tower, "patch_size", 16)
    stages = getattr(tower, "hidden_sizes", None) or [getattr(tower, "hidden_size", 768)]
    width = getattr(tower, "intermediate_size", 4 * stages[0])
    return max(1, CPU_ACTIVATION // ((image_size // patch) ** 2 * width))


def _logit_scale(model: Any) -> float:
    if hasattr(model, "logit_scale"):
        scale = float(model.logit_scale.detach().float().exp())
        return min(scale, getattr(model.config, "max_logit_scale", scale))  # AIMv2 has a limit
    if hasattr(model, "temperature"):  # ALIGN divides by it
        return float(1 / model.temperature.detach().float())
    raise CheckpointError(
        "this model has no logit scale or temperature, so it is no CLIP-like model"
    )


def _max_length(model: Any, tokenizer: Any) -> int:
    """The most tokens the text tower takes, special ones included."""
    config = model.config.text_config
    positions = config.max_position_embeddings
    roberta = {"roberta", "xlm-roberta", "camembert", "altclip_text_model"}
    if config.model_type in roberta:
        positions -= config.pad_token_id + 1  # their positions are counted from there
    return int(min(positions, tokenizer.model_max_length))


def _cache_identity(identity: str, device: torch.device, dtype: torch.dtype) -> str:
    import hashlib

    return hashlib.sha256(f"{identity} {device.type} {dtype}".encode()).hexdigest()
