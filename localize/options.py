"""The knobs of a run, as plain data.

Knows their names, ranges and defaults; knows nothing of the parts that read them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real

MAX_PIXELS = 500_000_000
"""Pixels of the largest picture that is read unless the user raises the limit: 1.5 GB as an array,
and for a moment twice that while it is decoded."""


@dataclass(frozen=True)
class Options:
    """Everything that a user may set, checked when it is made.

    scales: sides of the square windows. A number up to 1 is a fraction of the picture's short
        side, a larger one is pixels. Empty: the whole picture alone.
    stride: step between windows as a fraction of the window's side, in (0, 1].
        1 gives the plain grid of patches.
    budget: the most windows of a picture that are encoded. With one, the scales and the stride are
        the largest of `windows.DIAL` that keep to it, whatever those above say.
    threshold: the least score, in [0, 1], of a box that is reported: the chance that it is right.
        0 reports all, those too that are more likely parts or echoes of others: a ranked list.
    negatives: words that prompts are scored against, besides the encoder's own bank.
    batch_size: crops that go through the image encoder at once; None: as many as suit the device,
        see `encoders.device.choose_batch_size`.
    max_pixels: larger pictures are refused before memory is taken for them.

    Raises ValueError naming the field and its range, and TypeError for what is of another type.
    """

    scales: tuple[float, ...] = (1.0, 0.63, 0.4, 0.25)
    stride: float = 0.75
    budget: int | None = None
    threshold: float = 0.075
    negatives: tuple[str, ...] = ()
    batch_size: int | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        self._check_types()
        if any(not (math.isfinite(scale) and scale > 0) for scale in self.scales):
            raise ValueError(
                f"scales must be positive numbers (up to 1: fractions of the short side, "
                f"above 1: pixels), not {self.scales}"
            )
        if not 0 < self.stride <= 1:
            raise ValueError(f"stride must be in (0, 1], not {self.stride}")
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"budget must be at least 1, not {self.budget}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], not {self.threshold}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, not {self.max_pixels}")
        if any(not word.strip() for word in self.negatives):
            raise ValueError("negatives must be words; one of them is blank")

    def _check_types(self) -> None:
        """Raise TypeError where a field is no number, or no sequence of what it should hold."""
        for name in ("stride", "threshold"):
            if not isinstance(getattr(self, name), Real):
                raise TypeError(f"{name} must be a number, not {getattr(self, name)!r}")
        for name in ("max_pixels", "batch_size", "budget"):
            value = getattr(self, name)
            if not isinstance(value, Integral) and not (name != "max_pixels" and value is None):
                raise TypeError(f"{name} must be a whole number, not {value!r}")
        for name, kind, wanted in (("scales", Real, "numbers"), ("negatives", str, "words")):
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise TypeError(f"{name} must be a tuple of {wanted}, not {values!r}")
            if not all(isinstance(value, kind) for value in values):
                raise TypeError(f"{name} must hold {wanted} only, not {values!r}")
