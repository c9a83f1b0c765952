"""Is the right picture of a library found by its name, in the right place, and "none" said of none?

    python benchmarks/library.py --scenes 500 --store /tmp/scenes

Scenes of the embedded model's vocabulary are drawn into a folder and indexed; a second call with
the same --store takes them as they are. Asked are the names that are in exactly one scene, those
that are in none, and words that the model cannot know.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from localize import Hit, Index, Localizer
from localize.encoders import checkpoint_identity
from localize.evaluation.metrics import box_iou
from localize.evaluation.scenes import Scene, concepts, make_scene
from localize.evaluation.unknown import unknown_words
from localize.index import Store, settings_of, update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--store", type=Path, required=True, metavar="PATH")
    parsed = parser.parse_args()
    scenes = [make_scene(seed) for seed in range(parsed.scenes)]
    index = built(parsed.store, scenes)
    counts = Counter(name for scene in scenes for name in scene.names)
    places = {name: number for number, scene in enumerate(scenes) for name in scene.names}
    once = [name for name, count in counts.items() if count == 1]
    never = [each.name for each in concepts() if each.name not in counts]
    found = [index.search(name, top=1, min_presence=0.0, fast=True) for name in once]
    absent = [index.search(name, top=1, min_presence=0.0, fast=True) for name in never]
    unknown = [index.search(name, top=1, min_presence=0.0, fast=True) for name in unknown_words()]
    right = [
        bool(hits) and Path(hits[0].file).name == f"{places[name]:04}.png"
        for name, hits in zip(once, found, strict=True)
    ]
    print(
        f"{len(once)} names in exactly one of {len(scenes)} scenes, {len(never)} in none, ", end=""
    )
    print(f"{len(unknown)} unknown words")
    print("least presence | right picture first | none, of absent names | none, of unknown words")
    for least in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        first = np.mean(
            [good and sure(hits, least) for good, hits in zip(right, found, strict=True)]
        )
        none = [np.mean([not sure(hits, least) for hits in each]) for each in (absent, unknown)]
        print(f"{least:.1f} | {first:.3f} | {none[0]:.3f} | {none[1]:.3f}")
    first = [name for name, good in zip(once, right, strict=True) if good]
    exact = {name: index.search(name, top=1, min_presence=0.0) for name in first}
    good = [iou(hits[0], scenes[places[name]], name) >= 0.5 for name, hits in exact.items()]
    rough = [
        iou(hits[0], scenes[places[name]], name) >= 0.5
        for name, hits, r in zip(once, found, right, strict=True)
        if r
    ]
    print(f"box of the right picture, IoU >= .5: {np.mean(good):.3f}; window: {np.mean(rough):.3f}")


def built(store: Path, scenes: Sequence[Scene]) -> Index:
    """The scenes' index."""
    pictures = store / "pictures"
    if not (store / "index").exists():
        pictures.mkdir(parents=True, exist_ok=True)
        for number, scene in enumerate(scenes):
            Image.fromarray(scene.image).save(pictures / f"{number:04}.png", compress_level=1)
        localizer = Localizer.from_pretrained("emoji")
        made = Store.create(store / "index", settings_of(localizer, checkpoint_identity("emoji")))
        start = time.perf_counter()
        for done in update(made, sorted(pictures.iterdir()), localizer):
            last = done
        print(f"{last.encoded} encoded in {time.perf_counter() - start:.0f} s")
    return Index.open(store / "index")


def sure(hits: Sequence[Hit], least: float) -> bool:
    """Whether there is a hit at this presence."""
    return bool(hits) and hits[0].presence >= least


def iou(hit: Hit, scene: Scene, name: str) -> float:
    """Of a hit's best box with the thing of that name, the best of several."""
    truth = np.array([xyxy for label, xyxy in scene.objects if label == name], float)
    return float(box_iou(np.array([hit.box.xyxy], float), truth).max())


if __name__ == "__main__":
    main()
