"""How long does a search of so many windows take, and what does the approximate index miss?

    python benchmarks/search_speed.py --store /tmp/scenes/index --windows 10000 100000

--store is one that `localize index` has made: its windows, each turned a little in a direction of
its own until there are enough (noise alone would be spread as no pictures are), are put into a
table like that of a store. Asked are words of the bank. Exact search and the approximate index take
turns; of each the median time is told, and the share of the ten best windows that it finds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from localize import Index
from localize.index import schema, search, store
from localize.index.schema import asking_vector, embeddings_in, stored_vectors
from localize.relevance import negatives_weight

TURN = 0.3
"""Length of what is added to an embedding of length 1."""

ASKED, BEST = 40, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, metavar="PATH")
    parser.add_argument("--windows", type=int, nargs="+", default=[10_000, 100_000])
    parsed = parser.parse_args()
    index = Index.open(parsed.store)
    some = embeddings_in(
        index.store.windows.search().limit(None).to_arrow(), index.store.settings.dimensions
    )
    print("windows | bytes each | index built in s | exact ms | index ms | recall at 10")
    for count in parsed.windows:
        with tempfile.TemporaryDirectory() as folder:
            large = store.Store.create(Path(folder) / "large", index.store.settings)
            fill(large, some, index, count)
            print(" | ".join(measured(large, index, count)), flush=True)


def fill(large: store.Store, some: torch.Tensor, index: Index, count: int) -> None:
    """Put so many windows into a store's table, in parts."""
    generator = torch.Generator().manual_seed(0)
    scale, bank = index.localizer.encoder.logit_scale, index.localizer.bank
    for start in range(0, count, 50_000):
        chosen = torch.randint(len(some), (min(50_000, count - start),), generator=generator)
        turned = torch.randn(len(chosen), some.shape[1], generator=generator)
        embeddings = F.normalize(some[chosen] + TURN * F.normalize(turned, dim=-1), dim=-1)
        weights = negatives_weight(embeddings, bank, scale).numpy()
        rows = schema.window_rows(
            f"{start:032x}",
            np.ones(len(chosen), np.float32),
            np.zeros((len(chosen), 4), np.float32),
            stored_vectors(embeddings.numpy(), weights, scale),
        )
        large.add_windows([rows])


def measured(large: store.Store, index: Index, count: int) -> list[str]:
    """A row of the table."""
    start = time.perf_counter()
    large.tidy()
    built = time.perf_counter() - start
    bank = index.localizer.bank
    asked = [asking_vector(each.numpy()) for each in bank[:: max(1, len(bank) // ASKED)]]
    times: dict[bool, list[float]] = {True: [], False: []}
    shares = []
    for asking in asked:
        found = {}
        for exact in (True, False):
            query = large.windows.search(asking, vector_column_name="vector").distance_type("dot")
            query = query.nprobes(search.NPROBES).refine_factor(search.REFINE)
            query = query.bypass_vector_index() if exact else query
            start = time.perf_counter()
            rows = query.select(["number", "content", "_distance"]).limit(400).to_arrow()
            times[exact].append(time.perf_counter() - start)
            best = rows.slice(0, BEST)
            found[exact] = set(
                zip(best["content"].to_pylist(), best["number"].to_pylist(), strict=True)
            )
        shares.append(len(found[True] & found[False]) / BEST)
    size = sum(each.stat().st_size for each in large.path.rglob("*") if each.is_file())
    exact, quick = (1000 * float(np.median(times[each])) for each in (True, False))
    share = f"{np.mean(shares):.3f}"
    return [
        f"{count:,}",
        f"{size / count:.0f}",
        f"{built:.0f}",
        f"{exact:.0f}",
        f"{quick:.0f}",
        share,
    ]


if __name__ == "__main__":
    main()
