"""Is a store whose run was killed the one that an unbroken run makes, once the run was begun again?

    python benchmarks/killed.py --kills 20

Runs over some scenes are killed (SIGKILL) at random moments of the time that an unbroken one takes,
each in a store of its own, and begun again. Every second run finds a store of the folder's earlier
state: some pictures were changed since, some removed, some are new. It writes far more often than
runs do, so that many a moment lies in the middle of writing. Told is what differs, row by row.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from localize import Localizer, Options
from localize.evaluation.scenes import make_scene

SCENES, CHANGED = 40, 8
"""Pictures, and how many of them have changed, gone and come since the earlier state."""

WINDOWS = 5
"""Windows of a picture, and some more."""

Content = tuple[list[Any], list[Any], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    localizer = Localizer.from_pretrained("emoji", options=Options(budget=WINDOWS))
    localizer.contest("sky")  # What children would each do again.
    random = np.random.default_rng(parsed.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name) / "pictures", Path(name) / "store"
        folder.mkdir()
        earlier = Path(name) / "earlier"
        for number in range(SCENES):
            draw(folder, number, number)
        in_child(localizer, folder, earlier)
        for number in range(CHANGED):
            draw(folder, number, SCENES + number)
            (folder / f"{CHANGED + number}.png").unlink()
            draw(folder, SCENES + number, 2 * SCENES + number)
        seconds, whole = unbroken(localizer, folder, Path(name) / "whole")
        killed = differing = 0
        apart = 0.0
        while killed < parsed.kills:
            shutil.rmtree(store, ignore_errors=True)
            if killed % 2:
                shutil.copytree(earlier, store)
            moment = random.uniform(0, seconds)
            if not in_child(localizer, folder, store, moment):
                continue  # It was done before.
            killed += 1
            in_child(localizer, folder, store)
            rows, windows, vectors = in_child_content(store)
            same = rows == whole[0] and windows == whole[1]
            apart = max(apart, float(np.abs(vectors - whole[2]).max())) if same else np.inf
            differing += not same
            print(
                f"{moment:5.2f} of {seconds:.2f} s: {'the same' if same else 'another'}", flush=True
            )
    print(f"{killed} killed; {differing} stores differ; vectors at most {apart:.1e} apart")


def draw(folder: Path, number: int, seed: int) -> None:
    Image.fromarray(make_scene(seed).image).save(folder / f"{number}.png", compress_level=1)


def unbroken(localizer: Localizer, folder: Path, store: Path) -> tuple[float, Content]:
    """How long a run takes, and what is then in the store."""
    start = time.perf_counter()
    in_child(localizer, folder, store)
    return time.perf_counter() - start, in_child_content(store)


def in_child(
    localizer: Localizer, folder: Path, store: Path, kill_after: float | None = None
) -> bool:
    """A run in a process of its own, which shares the model; whether it was killed."""
    child = multiprocessing.get_context("fork").Process(target=run, args=(localizer, folder, store))
    child.start()
    child.join(kill_after)
    if child.is_alive():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    if child.exitcode not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run has ended with {child.exitcode}")
    return child.exitcode != 0


def run(localizer: Localizer, folder: Path, store: Path) -> None:
    from localize.index import Store, settings_of, update, updates

    updates.WINDOWS_AT_ONCE = 8 * WINDOWS
    made = Store.create(store, settings_of(localizer))
    for _ in update(made, sorted(folder.iterdir()), localizer, folders=[folder], prune=True):
        pass


def in_child_content(store: Path) -> Content:
    """All that a store holds, in an order of its own. In a child: this process must fork later."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(content, (store,))


def content(path: Path) -> Content:
    from localize.index import Store
    from localize.index.schema import embeddings_in

    store = Store.open(path)
    rows = sorted(store.picture_rows(), key=lambda row: row["path"])
    windows = store.windows.search().limit(None).to_arrow()
    windows = windows.sort_by([("content", "ascending"), ("number", "ascending")])
    plain = windows.select(["content", "number", "scale", "box"]).to_pylist()
    return rows, plain, embeddings_in(windows, store.settings.dimensions).numpy()


if __name__ == "__main__":
    main()
