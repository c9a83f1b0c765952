"""What is started on a cluster: how many workers, and what each is given.

Knows machines as Ray describes them; must not know rows or pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

READER_SHARE = 0.25
"""Of a core, what one reading task counts as. A worker on the CPU counts as the rest: there are
then as many of each as there are cores, and the scheduler of the machine divides the time."""

MOST_ON_A_GPU = 8
"""Workers that share one GPU."""

WORKER_BYTES = 1 << 30
"""What a worker takes besides the model: Python, torch, and the maps of one picture."""

GPU_BYTES = 2 << 30
"""What a worker takes of a GPU's memory besides: CUDA itself, and a batch on its way."""

PICTURES_ON_CPU, PICTURES_ON_GPU = 8, 32
"""Pictures in a batch: many times the encoder's own batch, which its end leaves unfilled, and few
enough that a worker that dies loses little."""


@dataclass(frozen=True)
class Machine:
    """One node of a cluster.

    memory: bytes that Ray counts for work. gpu_memory: bytes of each of its GPUs, where known.
    """

    cpus: float
    gpus: float
    memory: float
    gpu_memory: int | None = None

    @classmethod
    def of(cls, resources: Mapping[str, Any], gpu_memory: int | None = None) -> Machine:
        """From the `Resources` of a row of `ray.nodes()`."""
        cpus, gpus, memory = (float(resources.get(name, 0)) for name in ("CPU", "GPU", "memory"))
        return cls(cpus, gpus, memory, gpu_memory)


@dataclass(frozen=True)
class Plan:
    """What is started.

    workers: actors that hold the model. worker_cpus, worker_gpus, worker_memory: what each counts
        as, memory in bytes.
    batch: pictures that a worker is given at once. reader_cpus: what a reading task counts as; as
        many as there are workers run at once, at most.
    why: a sentence for each of these choices.
    """

    workers: int
    worker_cpus: float
    worker_gpus: float
    worker_memory: int
    batch: int
    reader_cpus: float = READER_SHARE
    why: tuple[str, ...] = ()


def make_plan(machines: list[Machine], *, model_bytes: int = 0, workers: int | None = None) -> Plan:
    """What suits the machines that are there.

    model_bytes: of the model's weights. workers: how many, where the user has said so.

    Raises ValueError where there are no machines with a core to work on, or workers is below 1.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--ray-workers must be at least 1, not {workers}")
    usable = [machine for machine in machines if machine.cpus]
    if not usable:
        raise ValueError("the Ray cluster has no machine with a core to work on")
    memory = WORKER_BYTES + 2 * model_bytes
    why = [
        f"{memory / 1e9:.1f} GB a worker: {WORKER_BYTES / 1e9:.1f} for Python, torch and maps, and "
        f"twice the model's {model_bytes / 1e9:.2f}"
    ]
    with_gpus = [machine for machine in usable if machine.gpus]
    if with_gpus:
        sharing = min(_sharing(machine, memory) for machine in with_gpus)
        fitting = sum(int(machine.gpus) * sharing for machine in with_gpus)
        cpus, gpus, batch = 1 - READER_SHARE, math.floor(1e4 / sharing) / 1e4, PICTURES_ON_GPU
        why.append(
            f"{sharing} workers a GPU: as many as there are cores and memory for, {MOST_ON_A_GPU} "
            "at most, because what follows the encoder (maps, boxes, files) is work for a core"
        )
    else:
        fitting = sum(
            max(1, min(int(machine.cpus), int(machine.memory // memory))) for machine in usable
        )
        cpus, gpus, batch = 1 - READER_SHARE, 0.0, PICTURES_ON_CPU
        why.append("a worker a core, where memory allows it: there is no GPU")
    if workers is not None:
        why.append(f"{workers} workers because --ray-workers says so; {fitting} would fit")
    why.append(
        f"{batch} pictures a batch: many times the encoder's own batch, and little to do again "
        "should a worker die"
    )
    why.append(
        f"a worker counts as {cpus} of a core and a reading task as {READER_SHARE}, one for each "
        "worker at most: all cores are busy with one or the other"
    )
    return Plan(workers or fitting, cpus, gpus, memory, batch, why=tuple(why))


def _sharing(machine: Machine, memory: int) -> int:
    """How many workers share one GPU of a machine."""
    by_cores = int(machine.cpus / machine.gpus)
    by_memory = MOST_ON_A_GPU
    if machine.gpu_memory is not None:
        by_memory = machine.gpu_memory // (memory + GPU_BYTES)
    return max(1, min(MOST_ON_A_GPU, by_cores, by_memory))
