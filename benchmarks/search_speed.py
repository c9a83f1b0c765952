"""How long does a search of so many windows take, and what does the approximate index miss?

    python benchmarks/search_speed.py --store /tmp/scenes/index --keep /tmp/large --windows 100000

--store is one that `localize index` has made: its windows, each turned a little in a direction of
its own until there are enough (noise alone would be spread as no pictures are), are put into a
store of as many, 60 to a picture, at --keep; a second call takes it from there. Asked are words of
the bank. Told are median times: of the nearest windows as a search fetches them, exactly and by the
approximate index; the share of the ten best windows that the index finds; and of a whole
`search(word, fast=True)`, which fetches them once or twice.
"""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from localize import Index, Localizer
from localize.evaluation.evaluate import load_object
from localize.index import schema, search, store
from localize.index.schema import asking_vector, embeddings_in, stored_vectors
from localize.relevance import negatives_weight

TURN = 0.3
"""Length of what is added to an embedding of length 1."""

OF_PICTURE = 60
"""Windows of a picture."""

AT_ONCE = 30_000

ASKED, BEST = 40, 10

WARM = 10
"""Questions whose times do not count: what a store's first searches read from the disk."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, metavar="PATH")
    parser.add_argument("--encoder", metavar="MODULE:OBJECT", help="that the store was made with")
    parser.add_argument("--keep", type=Path, required=True, metavar="PATH")
    parser.add_argument("--windows", type=int, nargs="+", default=[10_000, 100_000])
    parsed = parser.parse_args()
    localizer = Localizer(load_object(parsed.encoder)) if parsed.encoder else None
    index = Index.open(parsed.store, localizer=localizer)
    for count in parsed.windows:
        place = parsed.keep / str(count)
        if not (place / "done").exists():
            fill(store.Store.create(place, index.store.settings), index, count)
            (place / "done").touch()
    print("windows | bytes each | exact ms | index ms | recall at 10 | whole search ms")
    for count in parsed.windows:
        large = store.Store.open(parsed.keep / str(count))
        print(" | ".join([f"{count:,}", *measured(large, index.localizer)]), flush=True)


def fill(large: store.Store, index: Index, count: int) -> None:
    """Put so many windows into a store, in parts."""
    some = embeddings_in(
        index.store.windows.search().limit(None).to_arrow(), index.store.settings.dimensions
    )
    generator = torch.Generator().manual_seed(0)
    scale, bank = index.localizer.encoder.logit_scale, index.localizer.bank
    for start in range(0, count, AT_ONCE):
        chosen = torch.randint(len(some), (min(AT_ONCE, count - start),), generator=generator)
        turned = torch.randn(len(chosen), some.shape[1], generator=generator)
        embeddings = F.normalize(some[chosen] + TURN * F.normalize(turned, dim=-1), dim=-1)
        weights = negatives_weight(embeddings, bank, scale).numpy()
        vectors = stored_vectors(embeddings.numpy(), weights, scale)
        contents = [f"{(start + each) // OF_PICTURE:032x}" for each in range(len(chosen))]
        rows = schema.window_rows(
            "", np.ones(len(chosen), np.float32), np.zeros((len(chosen), 4), np.float32), vectors
        )
        rows["content"] = np.array(contents, object)
        rows["number"] = (start + rows["number"]) % OF_PICTURE
        large.add_windows([rows])
        pictures = [
            {"path": f"/{content}.jpg", "content": content, "width": 640, "height": 480}
            | {"bytes": 1, "modified_ns": 1, "missing": False}
            for content in dict.fromkeys(contents)
        ]
        large.pictures.add(pa.Table.from_pylist(pictures, schema=schema.pictures_schema()))
    begun = time.perf_counter()
    large.tidy()
    # Runs leave that to those ten minutes later: one joins the parts of the index, one drops them.
    for table in (large.pictures, large.windows, large.windows):
        table.optimize(cleanup_older_than=timedelta(0))
    print(f"{count:,} windows: joined, and indexed, in {time.perf_counter() - begun:.0f} s")


def measured(large: store.Store, localizer: Localizer) -> list[str]:
    """A row of the table, from the second column on."""
    words = localizer.bank_words[:: max(1, len(localizer.bank) // ASKED)][:ASKED]
    asked = [asking_vector(localizer.embed_prompts(word)[0].numpy()) for word in words]
    index = Index(large, localizer)
    times: dict[str, list[float]] = {"exact": [], "index": [], "whole": []}
    best: dict[str, list[set[tuple[str, int]]]] = {"exact": [], "index": []}
    for way in ("exact", "index") if large.has_index() else ("exact",):
        for asking in (*asked[:WARM], *asked):
            query = large.windows.search(asking, vector_column_name="vector").distance_type("dot")
            query = query.nprobes(search.NPROBES).refine_factor(search.REFINE)
            query = query.bypass_vector_index() if way == "exact" else query
            query = query.select(["number", "content", "_distance"]).limit(search.LEAST_FETCHED)
            start = time.perf_counter()
            rows = query.to_arrow().slice(0, BEST)
            times[way].append(time.perf_counter() - start)
            pairs = zip(rows["content"].to_pylist(), rows["number"].to_pylist(), strict=True)
            best[way].append(set(pairs))
    for word in (*words[:WARM], *words):
        start = time.perf_counter()
        index.search(word, fast=True)
        times["whole"].append(time.perf_counter() - start)
    shares = [
        len(exact & quick) / BEST
        for exact, quick in zip(best["exact"], best["index"], strict=False)
    ]
    size = sum(each.stat().st_size for each in Path(large.place).rglob("*") if each.is_file())
    exact, quick, whole = (
        f"{1000 * np.median(times[way][WARM:]):.0f}" if times[way] else "-"
        for way in ("exact", "index", "whole")
    )
    share = f"{np.mean(shares):.3f}" if shares else "-"
    return [f"{size / large.count_windows():.0f}", exact, quick, share, whole]


if __name__ == "__main__":
    main()
