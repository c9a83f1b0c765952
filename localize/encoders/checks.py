"""What every encoder must return, checked once it has: shape, finite numbers, unit length.

Knows the `Encoder` protocol; must not know any particular encoder.
"""

from __future__ import annotations

import torch

TOLERANCE = 0.01  # of a vector's length: bfloat16 keeps three digits


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
    shape = tuple(vectors.shape)
    if len(shape) != dims or shape[:-1] != leading or shape[-1] == 0:
        wanted = f"({leading[0]}, h, w, D)" if dims == 4 else f"({leading[0]}, D)"
        raise ValueError(f"{method} returned {what} of shape {shape}; {wanted} would be right")
    lengths = torch.linalg.vector_norm(vectors.detach().float(), dim=-1)
    if not bool(torch.isfinite(lengths).all()):
        raise ValueError(f"{method} returned {what} with NaN or infinite numbers")
    # A vector of zeros is what normalising a featureless cell gives: cosine 0 with everything.
    if not bool((((lengths - 1).abs() <= TOLERANCE) | (lengths == 0)).all()):
        raise ValueError(f"{method} returned {what} that are not unit-norm")
    return shape[-1]
