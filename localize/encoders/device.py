"""Which device and which number format a model runs in.

Knows torch's backends; must not know models or checkpoints.
"""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The torch device for ``"auto"`` (CUDA, else MPS, else the CPU) or for a device's own name.

    Raises ValueError for a name torch does not know and for a device this machine lacks.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"device {str(device)!r} cannot be used on this machine; "
            "give 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from error
    return chosen


def choose_dtype(
    dtype: str | torch.dtype = "auto", device: torch.device | str = "cpu"
) -> torch.dtype:
    """The floating-point format of a model's weights on a device.

    ``"auto"`` is bfloat16 where the hardware multiplies it natively, else float32; float16 is never
    chosen, since SigLIP-like towers can overflow in it.

    Raises ValueError for another format and for one that the device cannot compute in.
    """
    device = torch.device(device)
    if dtype == "auto":
        return torch.bfloat16 if _has_native_bfloat16(device) else torch.float32
    chosen = DTYPES.get(str(dtype).removeprefix("torch."))
    if chosen is None:
        raise ValueError(f"dtype {str(dtype)!r} is not one of 'auto', {str(list(DTYPES))[1:-1]}")
    try:
        probe = torch.ones(8, 8, device=device, dtype=chosen)
        (probe @ probe).sum().item()
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"dtype {str(dtype)!r} cannot be computed on device {device}") from error
    return chosen


def _has_native_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run on the hardware's own instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Newer torch releases only have these private probes; where they are missing float32 is
        # always right.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, probe, bool)() for probe in probes)
    return False
