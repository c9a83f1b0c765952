"""What every encoder must return, checked once it has: shape, finite numbers, unit length.

Knows the `Encoder` protocol; must not know any particular encoder.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch

TOLERANCE = 0.01  # of a vector's length: bfloat16 keeps three digits


def check_encoder(encoder: Any) -> None:
    """Refuse what cannot be an encoder: members that are missing or whose values make no sense.

    Raises TypeError for the former and ValueError for the latter, naming class and member.
    """
    name = type(encoder).__name__
    missing = [member for member in _MEMBERS if not hasattr(encoder, member)]
    if missing:
        raise TypeError(
            f"an encoder must have {', '.join(_MEMBERS)}, but {name} has no {missing[0]}; "
            "to load one by its name use Localizer.from_pretrained"
        )
    for member, (count, least, wanted) in _NUMBERS.items():
        if not hasattr(encoder, member):
            continue
        value = getattr(encoder, member)
        try:
            values = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
            right = len(values) == count and bool((values.isfinite() & (values > least)).all())
        except (TypeError, ValueError, RuntimeError):
            right = False
        kind = object if count > 1 else Integral if member == "image_size" else Real
        if not right or not isinstance(value, kind):
            raise ValueError(f"{name}.{member} must be {wanted}, not {value!r}")
    if not isinstance(getattr(encoder, "device", torch.device("cpu")), torch.device):
        raise TypeError(f"{name}.device must be a torch.device, not {encoder.device!r}")
    if getattr(encoder, "interpolation", "bicubic") not in ("bicubic", "bilinear"):
        raise ValueError(
            f'{name}.interpolation must be "bicubic" or "bilinear", not {encoder.interpolation!r}'
        )


_MEMBERS = ("image_size", "mean", "std", "logit_scale", "encode_crops", "encode_prompts")
# How many numbers a member holds, what they must exceed, and how that is said.
_NUMBERS = {
    "image_size": (1, 0, "a whole number of pixels"),
    "mean": (3, -math.inf, "three finite numbers"),
    "std": (3, 0, "three positive numbers"),
    "logit_scale": (1, 0, "a positive number"),
    "token_scale": (1, 0, "a positive number"),
}


def as_pair(encoder: object, returned: Any) -> tuple[Any, Any]:
    """What `encode_crops` returned, as embeddings and tokens; ValueError if it is no pair."""
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise ValueError(
            f"{type(encoder).__name__}.encode_crops returned {type(returned).__name__}; "
            "a pair of embeddings and tokens (or None) would be right"
        )
    return returned[0], returned[1]


def check_crop_embeddings(
    encoder: object, embeddings: object, tokens: object, num_crops: int
) -> None:
    """Refuse what `encode_crops` of any encoder returned for `num_crops` crops, if it is wrong.

    Right is unit-norm `embeddings` (num_crops, D), and `tokens` None or unit-norm
    (num_crops, h, w, D). Raises ValueError naming the encoder's class and the method.
    """
    method = f"{type(encoder).__name__}.encode_crops"
    size = _check_vectors(method, "embeddings", embeddings, (num_crops,))
    if tokens is not None:
        grid = tuple(tokens.shape[1:3]) if isinstance(tokens, torch.Tensor) else ()
        if _check_vectors(method, "tokens", tokens, (num_crops, *grid), dims=4) != size:
            raise ValueError(f"{method} returned tokens of another length than its embeddings")


def check_same_length(encoder: object, prompts: torch.Tensor, crops: torch.Tensor) -> None:
    """Refuse embeddings of prompts (P, D) and of crops (N, D') that cannot be compared."""
    if prompts.shape[1] != crops.shape[1]:
        raise ValueError(
            f"{type(encoder).__name__}.encode_prompts returned vectors of length "
            f"{prompts.shape[1]}, but encode_crops of length {crops.shape[1]}; both must be one"
        )


def check_prompt_embeddings(encoder: object, embeddings: object, num_prompts: int) -> None:
    """Refuse what `encode_prompts` of any encoder returned for `num_prompts` texts, if it is wrong.

    Right is unit-norm (num_prompts, D). Raises ValueError naming the encoder's class and method.
    """
    method = f"{type(encoder).__name__}.encode_prompts"
    _check_vectors(method, "embeddings", embeddings, (num_prompts,))


def _check_vectors(
    method: str, what: str, vectors: object, leading: tuple[int, ...], dims: int = 2
) -> int:
    """Check one stack of vectors; returns their length D."""
    if not isinstance(vectors, torch.Tensor):
        raise ValueError(
            f"{method} returned {type(vectors).__name__} as {what}, not a torch.Tensor"
        )
    if not vectors.is_floating_point():
        raise ValueError(f"{method} returned {what} of {vectors.dtype}, not floating point")
    shape = tuple(vectors.shape)
    if 0 in shape[1:-1] or len(shape) != dims or shape[:-1] != leading or shape[-1] == 0:
        wanted = f"({leading[0]}, h, w, D)" if dims == 4 else f"({leading[0]}, D)"
        raise ValueError(f"{method} returned {what} of shape {shape}; {wanted} would be right")
    lengths = torch.linalg.vector_norm(vectors.detach().float(), dim=-1)
    if not bool(torch.isfinite(lengths).all()):
        raise ValueError(f"{method} returned {what} with NaN or infinite numbers")
    # A vector of zeros is what normalising a featureless cell gives: cosine 0 with everything.
    if not bool((((lengths - 1).abs() <= TOLERANCE) | (lengths == 0)).all()):
        raise ValueError(f"{method} returned {what} that are not unit-norm")
    return shape[-1]
