"""Is the right picture of a library found by its name, in the right place, and "none" said of none?

    python benchmarks/library.py --scenes 500 --store /tmp/scenes

Scenes of the embedded model's vocabulary are drawn into a folder and indexed; a second call with
the same --store takes them as they are. Asked are all names of the vocabulary, and words that the
model cannot know. As a name may be in several scenes or in none, libraries are made up of the
answers: one scene of a name with all those without it, and only those without it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    never = {each.name for each in concepts()} - {name for scene in scenes for name in scene.names}
    trials = [trial(index, each.name, scenes) for each in concepts()]
    alone = [row for each in trials for row in each.shown]
    absent = [each.best_absent for each in trials]
    unknown = [
        presence(index.search(word, top=1, min_presence=0.0, fast=True)) for word in unknown_words()
    ]
    print(
        f"{len(scenes)} scenes. Right first: {len(alone):,} libraries with one scene of a name; ",
        end="",
    )
    print(
        f"none: {len(absent)} without any, {len(never)} of them of no scene, {len(unknown)} unknown"
    )
    print(
        "least presence | right first | none | none, of names in no scene | none, of unknown words"
    )
    nowhere = [each.best_absent for each in trials if each.name in never]
    for least in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        first = np.mean([own >= least and own > other for own, other in alone])
        none = [np.mean(np.array(each) < least) for each in (absent, nowhere, unknown)]
        print(
            f"{least:.1f} | {first:.3f} | {' | '.join(f'{each:.3f}' for each in none)}", flush=True
        )
    once = [each for each in trials if len(each.shown) == 1 and each.shown[0][0] > each.best_absent]
    pairs = [
        (index.search(each.name, top=1, min_presence=0.0, fast=fast)[0], each.name)
        for each in once
        for fast in (False, True)
    ]
    good = [iou(hit, scenes[int(Path(hit.file).stem)], name) >= 0.5 for hit, name in pairs]
    print(
        f"box of the {len(once)} right ones of one scene, IoU >= .5: {np.mean(good[::2]):.3f}; ",
        end="",
    )
    print(f"window: {np.mean(good[1::2]):.3f}")


@dataclass(frozen=True)
class Trial:
    """A name asked of all scenes: how sure the surest scene without it is, and for each scene with
    it, how sure that is, beside the surest without."""

    name: str
    best_absent: float
    shown: list[tuple[float, float]]


def trial(index: Index, name: str, scenes: Sequence[Scene]) -> Trial:
    """Any scene with the name and all those without it are a library with one of the name; all
    those without it are one with none."""
    hits = index.search(name, top=len(scenes), min_presence=0.0, fast=True)
    sure = {int(Path(hit.file).stem): hit.presence for hit in hits}
    having = {number for number, scene in enumerate(scenes) if name in scene.names}
    other = max((sure[number] for number in sure.keys() - having), default=0.0)
    return Trial(name, other, [(sure.get(number, 0.0), other) for number in sorted(having)])


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


def presence(hits: Sequence[Hit]) -> float:
    """How sure the first hit is, 0 where there is none."""
    return hits[0].presence if hits else 0.0


def iou(hit: Hit, scene: Scene, name: str) -> float:
    """Of a hit's best box with the thing of that name, the best of several."""
    truth = np.array([xyxy for label, xyxy in scene.objects if label == name], float)
    return float(box_iou(np.array([hit.box.xyxy], float), truth).max())


if __name__ == "__main__":
    main()
