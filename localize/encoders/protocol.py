"""What the rest of the package asks of an image and text encoder.

Knows the shape of the conversation only: no model, no window, no box.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


@runtime_checkable
class Encoder(Protocol):
    """An image and a text tower with one embedding space, like CLIP's.

    Besides the members below an encoder may have

    * ``negatives: list[str]``: words to score prompts against, in place of the built-in bank;
    * ``token_scale: float``: factor from a cell's cosine to its log-odds; `logit_scale`, which is
      the pooled vector's, when it is missing;
    * ``interpolation: str``: ``"bicubic"`` (the default) or ``"bilinear"``, how crops are resized;
    * ``device: torch.device``: where crops must be; the CPU when it is missing;
    * ``name: str``: what results call the model; the class's name when it is missing.

    A `Localizer` goes to other processes (workers of a DataLoader, joblib, Ray) where its encoder
    can be pickled.
    """

    @property
    def image_size(self) -> int:
        """Side S, in pixels, of the square crops it takes."""
        ...

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of each RGB channel (range 0 to 1) that crops are normalised with."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of each RGB channel that crops are normalised with."""
        ...

    @property
    def logit_scale(self) -> float:
        """Factor from a crop's cosine to its logit, the inverse of the softmax temperature."""
        ...

    def encode_crops(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embed float32 crops (B, 3, S, S), normalised RGB.

        Returns the unit-norm embeddings (B, D) and the unit-norm embeddings of each crop's cells
        (B, h, w, D), or None where the encoder has no such cells.
        """
        ...

    def encode_prompts(self, texts: list[str]) -> torch.Tensor:
        """Embed P texts as unit-norm vectors (P, D)."""
        ...
