"""Which device and which number format a model runs in.

Knows torch's backends; must not know models or checkpoints.
"""

from __future__ import annotations

import math
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CPU_BATCH, CUDA_BATCH = 32, 256
"""Crops at once: enough to keep the device busy, few enough for its memory."""


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


def choose_batch_size(device: torch.device) -> int:
    """Crops that go through an image encoder at once where the user has not said how many."""
    return CUDA_BATCH if device.type == "cuda" else CPU_BATCH


def cores_to_use(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many threads may compute at once: OMP_NUM_THREADS, else the cores that are ours to use.

    Those are the cores that this process may run on, and no more than its control group's share of
    processor time (version 2's ``cpu.max``, version 1's ``cpu.cfs_quota_us``), to which containers
    are held; threads beyond it only wait for each other.
    """
    with suppress(ValueError):
        if (chosen := int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0])) > 0:
            return chosen
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not everywhere
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _processor_share(control_groups))))


def _processor_share(control_groups: Path) -> float:
    """The control group's limit in cores, infinite where there is none."""
    for quota, period in (
        ("cpu.max", None),
        ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"),
    ):
        try:
            words = (control_groups / quota).read_text().split()
            if period is not None:
                words += (control_groups / period).read_text().split()
            share = int(words[0]) / int(words[1])
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue  # no such file, or "max"
        if share > 0:  # version 1 writes -1 for no limit
            return share
    return math.inf


class ExactConvolutions:
    """A context in which convolutions of float32 are computed in float32.

    On CUDA torch rounds their inputs to TF32 (10 bits of mantissa in place of 23) unless it is told
    not to. The setting is one for the whole process: it is put back once the last thread has left
    the context. Matrix products are in float32 by torch's default and are left as the user set them
    (``torch.set_float32_matmul_precision``).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: Any = None

    def __enter__(self) -> None:
        with self._lock:
            where, name, exact = _convolution_setting()
            if self._inside == 0:
                self._before = getattr(where, name)
                setattr(where, name, exact)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            where, name, _exact = _convolution_setting()
            self._inside -= 1
            if self._inside == 0:
                setattr(where, name, self._before)


exact_convolutions = ExactConvolutions()


def _convolution_setting() -> tuple[Any, str, Any]:
    """The object and attribute that allow TF32 in convolutions, and the value that forbids it."""
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    if hasattr(convolutions, "fp32_precision"):  # torch 2.9 and later
        return convolutions, "fp32_precision", "ieee"
    return torch.backends.cudnn, "allow_tf32", False


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
