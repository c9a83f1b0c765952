"""Which pictures workers have died with, so that the guilty one is set aside and named.

Knows Ray's tasks and actors; must not know pictures or models.

Ray tries the task of a dead worker again, for ever. Before a worker begins with pictures it says so
to the ledger, and says when it is done. What the same task has begun before and never done is
suspect: it is tried again alone, and after `TRIES_ALONE` further deaths not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

TRIES_ALONE = 2
"""Times that a picture is tried alone, once a worker has died with it and others."""

Result = TypeVar("Result")


class Ledger:
    """What is being tried. It lives in an actor of its own, see `start_ledger`."""

    def __init__(self) -> None:
        self._together, self._alone = Counter[str](), Counter[str]()

    def begin(self, names: Sequence[str]) -> list[bool]:
        """Note that these are being tried together; which of them are suspect."""
        suspect = [self._together[name] > 0 for name in names]
        self._together.update(set(names))
        return suspect

    def begin_alone(self, name: str) -> bool:
        """Note that it is being tried alone; False where it has been often enough."""
        self._alone[name] += 1
        return self._alone[name] <= TRIES_ALONE

    def done(self, names: Iterable[str]) -> None:
        for name in names:
            del self._together[name], self._alone[name]


def start_ledger() -> Any:
    """A ledger on the driver's own machine: what ends that ends the run."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(Ledger).options(num_cpus=0, scheduling_strategy=here).remote()


def tried(
    ledger: Any,
    names: Sequence[str],
    work: Callable[[list[int]], Iterator[tuple[int, Result]]],
    set_aside: Callable[[int, int], Result],
) -> Iterator[tuple[int, Result]]:
    """The results of work on things that may kill this process, each with the thing's number.

    names: of the things; those of different things differ, at least within one task.
    work: takes numbers of things, and gives each with its result.
    set_aside: the result of a thing that is not worked on any more, of its number and of how many
        processes have died with it.
    """
    import ray

    task = ray.get_runtime_context().get_task_id()
    names = [f"{task} {name}" for name in names]
    suspect = ray.get(ledger.begin.remote(names))
    good = [number for number, is_suspect in enumerate(suspect) if not is_suspect]
    if good:
        yield from work(good)
        ledger.done.remote([names[number] for number in good])
    for number, is_suspect in enumerate(suspect):
        if is_suspect:
            if ray.get(ledger.begin_alone.remote(names[number])):
                yield from work([number])
            else:
                yield number, set_aside(number, 1 + TRIES_ALONE)
            ledger.done.remote([names[number]])
