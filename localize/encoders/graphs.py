"""A torch tower as one OpenVINO graph: traced, quantized, compiled for the CPU that is there.

Knows OpenVINO, NNCF and tensors; must not know checkpoints, files or what a tower computes.
Neither library's telemetry is loaded, so that nothing is ever sent.
"""

from __future__ import annotations

import importlib.util
import io
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from localize.encoders.device import cores_to_use

Precision: TypeAlias = Literal["float32", "bfloat16"]
Array: TypeAlias = npt.NDArray[Any]
EXTRA = "pip install 'clip-localize[openvino]'"

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def is_installed() -> bool:
    """Whether the extra `openvino` is there, without importing it."""
    return all(importlib.util.find_spec(name) is not None for name in ("openvino", "nncf"))


def openvino() -> Any:
    """The module openvino. Raises ImportError, in one sentence, where it is not installed."""
    with _without_telemetry():
        try:
            import openvino
        except ImportError as error:
            raise ImportError(f"this needs OpenVINO: {EXTRA}") from error
    return openvino


def capabilities() -> str:
    """What the CPU can do as OpenVINO sees it, and OpenVINO's own version: parts of a cache key."""
    features = sorted(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    name = _core().get_property("CPU", "FULL_DEVICE_NAME")
    return f"{openvino().get_version()} {name} {' '.join(features)}"


def has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> Any:
    """OpenVINO's view of the machine, one for all: each finds out anew what the CPU can do."""
    return openvino().Core()


def trace(run: Callable[[Any], Any], example: Any, shape: Sequence[int]) -> Any:
    """The graph (an openvino.Model) of a function of one torch tensor.

    run: float32 towers on the CPU in it; it gives a tensor or a tuple of tensors.
    example: an input to run it on, not with 1 in a dimension that may vary.
    shape: the input's, -1 where it may vary.
    Raises RuntimeError where the function cannot be traced or OpenVINO lacks an operation.
    """
    import torch

    class Traced(torch.nn.Module):
        def forward(self, tensor: torch.Tensor) -> Any:
            return run(tensor)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # The tracer's notes are for its developers.
        try:
            run(example)  # What a first run prepares and keeps is no part of the graph.
            # The tracer's own check compares graphs node by node, which hooks make differ in
            # nothing but names; who traces compares results.
            script = torch.jit.trace(Traced(), example, check_trace=False)
            return openvino().convert_model(script, input=[list(shape)])
        except Exception as error:  # Of torch's, OpenVINO's and Python's own types.
            raise RuntimeError(" ".join(str(error).split())[:200]) from error


def quantize(model: Any, samples: Sequence[Array], *, smooth: bool) -> Any:
    """A new graph with matrix products and convolutions in 8-bit integers.

    samples: inputs, each with its batch dimension. The range of an activation is from its least to
        its greatest value among them: NNCF's mean of each input's own cuts off what is rare, which
        cost ten times the error on the towers tried.
    smooth: move what is large in activations into weights first (SmoothQuant, arXiv 2211.10438),
        which helps towers with few channels far larger than the others, and hurts those without.
    """
    with _without_telemetry():
        try:
            import nncf
            from nncf.quantization.range_estimator import RangeEstimatorParametersSet
        except ImportError as error:
            raise ImportError(f"this needs NNCF: {EXTRA}") from error
    import logging

    level = logging.getLogger("nncf").level
    nncf.set_log_level(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):  # its progress bars
            return nncf.quantize(
                model.clone(),
                nncf.Dataset(list(samples)),
                subset_size=len(samples),
                model_type=nncf.ModelType.TRANSFORMER,
                target_device=nncf.TargetDevice.CPU,
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(
                        convolution=-1, matmul=0.95 if smooth else -1
                    ),
                ),
            )
    finally:
        nncf.set_log_level(level)


def to_bytes(model: Any, *, half: bool) -> tuple[bytes, Array]:
    """A graph as (XML, weights as uint8), the weights of floats in half precision where `half` says
    so."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.xml"
        openvino().save_model(model, path, compress_to_fp16=half)
        return path.read_bytes(), np.fromfile(path.with_suffix(".bin"), np.uint8)


def from_bytes(xml: bytes, weights: Array) -> Any:
    """What `to_bytes` was given, in the same memory, which must be kept as long.

    Raises RuntimeError for what is no graph.
    """
    return _core().read_model(xml, openvino().Tensor(weights, shared_memory=True))


def _threads() -> dict[str, int]:
    """The setting of how many threads, where that is said or limited.

    Otherwise OpenVINO chooses: it knows which cores are fast and which save power, and which are
    two halves of one.
    """
    cores = cores_to_use()
    limited = "OMP_NUM_THREADS" in os.environ or cores < (os.cpu_count() or 1)
    return {"INFERENCE_NUM_THREADS": cores} if limited else {}


class Graph:
    """A graph compiled for this machine's CPU. Threads may share one: they take turns."""

    def __init__(self, model: Any, precision: Precision, weights: Array | None = None) -> None:
        """precision: of the floating-point operations; quantized ones stay quantized.
        weights: the memory that the model's are in, where `from_bytes` made it.
        """
        self._kept = model, weights  # The compiled graph may share them.
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time
            **_threads(),
            # Pinned threads of two processes would share some cores and leave others idle.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = _core().compile_model(model, "CPU", settings)
        self.threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, inputs: Array) -> list[Array]:
        """The outputs, copied, in their order."""
        with self._lock:
            results = self._request.infer(inputs)
            return [np.array(results[index], np.float32) for index in range(len(results))]


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Import OpenVINO and NNCF as if `openvino_telemetry` were not installed.

    Imported as they are, both send their use to their makers, unasked. Where the user has imported
    the package already, it stays.
    """
    if "openvino_telemetry" in sys.modules:
        yield
        return
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["openvino_telemetry"]
