"""The same run and the same index on many machines, on Ray Data.

Knows Ray's datasets and the parts that it hands pictures to; must not know anything twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localize.cluster.jobs import Outcome, detect, detect_into, encode, locate
    from localize.cluster.parquet import find_pictures, finished
    from localize.cluster.plan import Machine, Plan, make_plan
    from localize.cluster.start import ClusterError, connected, machines
    from localize.cluster.store import update

__all__ = [
    "ClusterError",
    "Machine",
    "Outcome",
    "Plan",
    "connected",
    "detect",
    "detect_into",
    "encode",
    "find_pictures",
    "finished",
    "locate",
    "machines",
    "make_plan",
    "update",
]

_HOMES = {
    "jobs": ("Outcome", "detect", "detect_into", "encode", "locate"),
    "parquet": ("find_pictures", "finished"),
    "plan": ("Machine", "Plan", "make_plan"),
    "start": ("ClusterError", "connected", "machines"),
    "store": ("update",),
}


def __getattr__(name: str) -> Any:
    """Import a name at its first use: processes that only read pictures need no torch."""
    from importlib import import_module

    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
