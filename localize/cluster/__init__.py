"""The same run and the same index on many machines, on Ray Data.

Knows Ray's datasets and the parts that it hands pictures to; must not know anything twice.
"""

from __future__ import annotations

from localize.cluster.jobs import Outcome, detect, detect_into, encode, locate
from localize.cluster.parquet import find_pictures, finished
from localize.cluster.plan import Plan, make_plan
from localize.cluster.start import ClusterError, connected, machines
from localize.cluster.store import update

__all__ = [
    "ClusterError",
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
