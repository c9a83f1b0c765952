"""An `Encoder` made of a loaded image tower and text tower, whichever library they come from.

Knows how towers are run: batches, devices, number formats, compiling, texts that are known already.
Must not know a library's models or files, nor windows, templates or boxes.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from localize.encoders.cuda_graph import CudaGraph, Run
from localize.encoders.device import choose_device, choose_dtype, exact_convolutions
from localize.encoders.reload import Reloadable
from localize.encoders.texts import Texts, TextTower
from localize.encoders.tokens import BLUNTNESS, RewiredBlock, TokenReader

# Numbers in the widest activation of one forward on the CPU. With many more it outgrows the caches:
# a ViT-B/16 takes a fifth longer for a crop at 16 crops a forward than at 4.
CPU_ACTIVATION = 3_000_000
COMPILED_BATCH = 64  # crops in one compiled forward, if memory and caches allow


@dataclass(frozen=True)
class Towers:
    """A dual encoder as a library loaded it, and how that library is asked."""

    name: str  # as results call it
    identity: str  # changes with the weights; texts are remembered under it
    model: Any  # float32, on the CPU, eval mode
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str  # "bicubic" or "bilinear"
    logit_scale: float
    negatives: list[str] | None  # the checkpoint's own bank
    embed_crops: Callable[[torch.Tensor], torch.Tensor]  # (B, 3, S, S) -> (B, D), any length
    embed_ids: Callable[[torch.Tensor], torch.Tensor]  # int64 (P, L) -> (P, D), any length
    tokenize: Callable[[list[str]], tuple[list[list[int]], list[str]]]
    """Texts -> the ids of each, none more than `max_length`, and the texts that were cut."""
    max_length: int
    vocabulary: int  # ids that the text tower knows
    token_reader: Callable[[Any], TokenReader | None]  # of the model, once it is on its device
    activation: int  # numbers in the widest activation of one crop's forward
    tokenizer: str | None = None
    """`tokenize` as JSON of the library tokenizers, where it is one of that library's."""


class TowerEncoder(Reloadable):
    """Towers as an `Encoder`; see the protocol for shapes.

    Several threads may use one at a time. float32 means float32: its convolutions are not rounded
    to TF32.
    """

    negatives: list[str]  # only where the checkpoint brings a bank of its own

    def __init__(
        self,
        towers: Towers,
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
    ) -> None:
        """Put towers on a device.

        compile: run the image tower through torch.compile, here and now, for batches of one size,
            to which smaller ones are filled up, and under CUDA record it as one graph. Takes a
            minute or so; embeddings keep a cosine of .999 with those of the tower as it is.

        Raises ValueError for an impossible device or dtype, and where compiling fails.
        """
        self.name = towers.name
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.logit_scale = towers.logit_scale
        self.image_size, self.mean, self.std = towers.image_size, towers.mean, towers.std
        self.interpolation = towers.interpolation
        if towers.negatives is not None:
            self.negatives = towers.negatives
        self._towers = towers
        self._model = towers.model.to(self.device, self.dtype)
        self._read_tokens = towers.token_reader(self._model)
        rewired = isinstance(self._read_tokens, RewiredBlock)
        self.token_scale = self.logit_scale * (BLUNTNESS if rewired else 1.0)
        self._crops_at_once = sys.maxsize
        if self.device.type == "cpu":  # as many as its caches hold
            self._crops_at_once = max(1, CPU_ACTIVATION // towers.activation)
        self.text_tower = TextTower(
            towers.tokenize,
            lambda ids: towers.embed_ids(ids.to(self.device)),
            towers.max_length,
            towers.vocabulary,
        )
        self.tokenizer = towers.tokenizer
        identity = _cache_identity(towers.identity, self.device, self.dtype)
        self._texts = Texts(self.name, identity, lambda: self.text_tower)
        self._compiled: Run | None = None
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
        return self._texts.embed(texts)

    def _forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings and tokens of crops, of any length and in the model's dtype."""
        pixels = crops.to(self.device, self.dtype)
        if self._compiled is None:
            return self.run_tower(pixels)
        return self._compiled(pixels)

    def run_tower(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings and tokens, of any length, of crops on the device and in the dtype."""
        embeddings = self._towers.embed_crops(pixels)
        return embeddings, None if self._read_tokens is None else self._read_tokens()

    def _compile(self) -> None:
        """Compile the image tower by running it once, so that failing to is told before work."""
        run = torch.compile(self.run_tower, dynamic=False)
        shape = (self._crops_at_once, 3, self.image_size, self.image_size)
        unrecorded = ""
        try:
            with warnings.catch_warnings(), torch.inference_mode(), exact_convolutions:
                warnings.simplefilter("ignore")  # The compiler's notes are for its developers.
                crops = torch.zeros(shape, device=self.device, dtype=self.dtype)
                run(crops)
                self._compiled = partial(_filled_up, run, len(crops))
                if crops.is_cuda:
                    try:
                        self._compiled = CudaGraph(run, crops)
                    except torch.OutOfMemoryError:
                        raise
                    except RuntimeError as error:  # It asks the CPU for something in between.
                        unrecorded = _in_short(error)
        except RuntimeError as error:
            raise ValueError(
                f"{self.name} cannot be compiled here, so use it without compiling; torch says: "
                f"{_in_short(error)}"
            ) from error
        if unrecorded:
            warnings.warn(
                f"{self.name} is compiled, but cannot be recorded as a CUDA graph: {unrecorded}",
                stacklevel=4,
            )


def _filled_up(
    run: Run, size: int, pixels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What `run`, which takes as many crops as `size`, gives for so many or fewer."""
    count = len(pixels)
    embeddings, tokens = run(F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, size - count)))
    return embeddings[:count], None if tokens is None else tokens[:count]


def _in_short(error: Exception) -> str:
    reason = " ".join(str(error).split())
    return reason if len(reason) <= 200 else reason[:197] + "..."


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return F.normalize(vectors.float(), dim=-1)


def _cache_identity(identity: str, device: torch.device, dtype: torch.dtype) -> str:
    return hashlib.sha256(f"{identity} {device.type} {dtype}".encode()).hexdigest()
