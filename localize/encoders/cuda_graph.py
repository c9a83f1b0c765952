"""A function of CUDA tensors, recorded once and replayed as one launch.

Knows torch's CUDA graphs; must not know what the function computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

import torch

Run: TypeAlias = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]

WARM_UP = 3  # runs before the recording, in which libraries make up their minds


class CudaGraph:
    """A function of a CUDA tensor (B, ...) whose rows do not depend on each other, as a CUDA graph.

    A small model's kernels take less time than Python needs to launch them; a graph launches all
    of them at once. Threads may share one, each on a stream of its own, where torch's own mode for
    it ("reduce-overhead") fails.
    """

    def __init__(self, run: Run, example: torch.Tensor) -> None:
        """Record `run` on the example's device, in the shape of the example.

        Raises RuntimeError where it does what cannot be recorded, such as a copy to the CPU.
        """
        self._device = example.device
        self._lock = threading.Lock()
        self._run = run  # What is recorded may use memory that it holds.
        self._input = example.clone()
        self._graph = torch.cuda.CUDAGraph()
        # A recording that fails would leave the thread on the stream of the recording.
        with (
            torch.cuda.device(self._device),
            torch.cuda.stream(torch.cuda.current_stream(self._device)),
        ):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    run(self._input)
            torch.cuda.current_stream().wait_stream(beside)
            # What other threads do with the device meanwhile is no part of it, nor forbidden.
            with torch.cuda.graph(self._graph, stream=beside, capture_error_mode="thread_local"):
                self._outputs = run(self._input)
            self._free = torch.cuda.Event()  # the input and the outputs, of those who came before
            self._free.record()

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the function gives for rows (N, ...), no more of them than the example had."""
        count = len(rows)
        with self._lock, torch.cuda.device(self._device):
            self._free.wait()
            self._input[:count].copy_(rows)
            self._graph.replay()
            first, second = self._outputs
            results = first[:count].clone(), None if second is None else second[:count].clone()
            self._free.record()
            return results
