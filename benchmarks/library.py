"""Is the right picture of a library found by its name, in the right place, and "none" said of none?

    python benchmarks/library.py --scenes 500 --seed 1000 --store /tmp/scenes
    python benchmarks/library.py --data PHOTOS --encoder my_encoder:Tower --store /tmp/photos

The pictures are indexed at --store; a second call with the same pictures and store takes them from
there. Asked are all names of the vocabulary and, of scenes, words that the embedded
model cannot know. Names in one picture or in none are few, so that more libraries are made up of
the same pictures: of each name one picture that shows it with all those that do not, and only those
that do not. Beside the index stands what others do: a vector a picture, ranked by its cosine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from material import add_material, material
from PIL import Image

from localize import Hit, Index, Localizer
from localize.boxes import box_iou
from localize.encoders import Encoder, checkpoint_identity
from localize.evaluation.samples import Sample, Truth
from localize.evaluation.unknown import unknown_words
from localize.index import Store, settings_of, update
from localize.index.schema import embeddings_in
from localize.index.search import MIN_PRESENCE
from localize.relevance import presences

LEAST = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9)

CHECKED, EACH = 20, 5
"""Pictures that are encoded once more, to compare presences with; of names every fifth is asked."""

Array = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--store", type=Path, required=True, metavar="PATH")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    files, truths = files_of(samples, parsed.store), [sample.truth for sample in samples]
    checkpoint = None if parsed.encoder else checkpoint_identity(parsed.model)
    index = built(parsed.store / "index", files, encoder, checkpoint)
    names = sorted({name for truth in truths for name in set(truth.prompts) - set(truth.unknown)})
    there = np.array([[name in truth.labels for name in names] for truth in truths])
    unknown = unknown_words() if parsed.scenes else ()

    words = [*names, *unknown]
    by_windows = presences_by_windows(index, files, words)
    looked = presences_looked_again(index, files, words, by_windows)
    sure, alike = by_windows[:, : len(names)], cosines_of_wholes(index, files, names)
    print(f"{len(files)} pictures, {index.store.count_windows():,} windows, {len(names)} names")
    tell_answers(index, files, truths, names, there, unknown)
    tell_ranking(there, sure, alike)
    tell_likeness(index, files, names)
    tell_least("by windows (--fast)", there, by_windows)
    tell_least("after the second look", there, looked)


def files_of(samples: Sequence[Sample], folder: Path) -> list[str]:
    """Where the pictures are; scenes are drawn into the folder."""
    files = []
    for sample in samples:
        path = sample.image
        if not isinstance(path, Path):
            path = folder / "pictures" / f"{sample.truth.file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                Image.fromarray(sample.image).save(path, compress_level=1)
        files.append(str(path.resolve()))
    return files


def built(path: Path, files: Sequence[str], encoder: Encoder, checkpoint: str | None) -> Index:
    """The index of the pictures."""
    localizer = Localizer(encoder)
    store = Store.create(path, settings_of(localizer, checkpoint))
    start = time.perf_counter()
    *_, done = update(store, files, localizer)
    if store.count_pictures() != len(files):
        raise SystemExit(f"{path} holds other pictures than those; choose another --store")
    print(
        f"{done.encoded} encoded, {done.unchanged} unchanged in {time.perf_counter() - start:.1f} s"
    )
    return Index(store, localizer)


def presences_by_windows(index: Index, files: Sequence[str], names: Sequence[str]) -> Array:
    """How sure each name is in each picture by all of its stored windows, (pictures, names)."""
    rows = index.store.windows.search().limit(None).to_arrow()
    embeddings = embeddings_in(rows, index.store.settings.dimensions)
    contest, scale = index.localizer.contest(list(names)), index.localizer.encoder.logit_scale
    scores = contest.scores(embeddings, scale)
    owner = torch.tensor(numbers_of(index, files, rows["content"].to_pylist()))
    best = torch.zeros(len(files), len(names))
    best.scatter_reduce_(0, owner[:, None].expand(scores.shape), scores, "amax")
    return np.asarray(best.numpy(), np.float32)


def presences_looked_again(
    index: Index, files: Sequence[str], names: Sequence[str], by_windows: Array
) -> Array:
    """The same after a second look, 0 where it is sure to be below the least of `LEAST`."""
    looked = np.zeros_like(by_windows)
    for number, encoded in enumerate(index.localizer.encode_many(files)):
        likely = np.flatnonzero(by_windows[number] >= min(LEAST) ** 2).tolist()
        if not likely:
            continue
        best: dict[str, float] = {}
        for box in index.localizer.locate(encoded, [names[each] for each in likely]).boxes:
            best.setdefault(box.label, box.score)
        scores = [best.get(names[each], 0.0) for each in likely]
        looked[number, likely] = np.sqrt(by_windows[number, likely] * scores)
    return looked


def cosines_of_wholes(index: Index, files: Sequence[str], names: Sequence[str]) -> Array:
    """The cosine of each whole picture with each name, (pictures, names): what others do."""
    rows = index.store.whole_pictures(("content", "vector"))
    embeddings = embeddings_in(rows, index.store.settings.dimensions)
    cosines = np.zeros((len(files), len(names)), np.float32)
    numbers = numbers_of(index, files, rows["content"].to_pylist())
    cosines[numbers] = embeddings @ index.localizer.embed_prompts(list(names)).T
    return cosines


def numbers_of(index: Index, files: Sequence[str], contents: Sequence[str]) -> list[int]:
    """Of each content the number of the picture."""
    path_of = {row["content"]: row["path"] for row in index.store.picture_rows()}
    number_of = {file: number for number, file in enumerate(files)}
    return [number_of[path_of[content]] for content in contents]


def tell_answers(
    index: Index,
    files: Sequence[str],
    truths: Sequence[Truth],
    names: Sequence[str],
    there: npt.NDArray[np.bool_],
    unknown: Sequence[str],
) -> None:
    """What `search` answers, as it is, of names in one picture, of those in none, and of words that
    the model cannot know."""
    once = [name for name, count in zip(names, there.sum(0), strict=True) if count == 1]
    never = [name for name, count in zip(names, there.sum(0), strict=True) if count == 0]
    first: dict[bool, list[bool]] = {True: [], False: []}
    good: dict[bool, list[bool]] = {True: [], False: []}
    for name in once:
        (right,) = np.flatnonzero(there[:, names.index(name)])
        for fast in (True, False):
            found = index.search(name, top=1, fast=fast)
            first[fast].append(bool(found) and found[0].file == files[right])
            if first[fast][-1]:
                good[fast].append(iou(found[0], truths[right], name) >= 0.5)
    print(f"least presence {MIN_PRESENCE}, and in brackets by windows alone (--fast)")
    for question, answers in (
        (f"right picture first, of {len(once)} names in exactly one", first),
        ("box of that hit, IoU >= .5", good),
    ):
        print(f"{question}: {np.mean(answers[False]):.3f} ({np.mean(answers[True]):.3f})")
    for which, words in (("names in no picture", never), ("unknown words", unknown)):
        if words:
            none, fast = (
                np.mean([not index.search(word, top=1, fast=each) for word in words])
                for each in (False, True)
            )
            print(f'"none", of {len(words)} {which}: {none:.3f} ({fast:.3f})')


def tell_ranking(there: npt.NDArray[np.bool_], sure: Array, alike: Array) -> None:
    """Mean average precision of pictures."""
    shown = np.flatnonzero(there.any(0))
    ours, theirs = (
        np.mean([average_precision(there[:, name], by[:, name]) for name in shown])
        for by in (sure, alike)
    )
    print(
        f"mean average precision of pictures, {len(shown)} names that are there: {ours:.3f}; "
        f"by whole pictures: {theirs:.3f}; {ours / theirs:.2f} times"
    )


def average_precision(there: npt.NDArray[np.bool_], sure: Array) -> float:
    """Of one name: the mean, over the pictures that show it, of the precision down to each."""
    ranked = there[np.argsort(-sure, kind="stable")]
    return float(np.mean(np.cumsum(ranked)[ranked] / (np.flatnonzero(ranked) + 1)))


def tell_likeness(index: Index, files: Sequence[str], names: Sequence[str]) -> None:
    """How far the presences of hits are from those of `locate` without tokens, of some pictures.

    Every name of the embedded model is in its own bank of negatives, as near to itself as can be.
    """
    localizer, some = index.localizer, files[:CHECKED]
    contest, scale = localizer.contest(list(names)), localizer.encoder.logit_scale
    expected = {
        encoded.source: presences(contest.scores(encoded.embeddings, scale), None)
        for encoded in localizer.encode_many(some)
    }
    synonyms = (~contest.against).sum(1)
    apart = [
        abs(hit.presence - expected[hit.file][number])
        for number, name in [*enumerate(names)][::EACH]
        for hit in index.search(name, min_presence=0.0, fast=True)
        if hit.file in expected
    ]
    print(
        f"presence of {len(apart)} hits and that of locate without tokens: at most "
        f"{max(apart):.1e} apart; near-synonyms a name: {synonyms.min()} to {synonyms.max()}"
    )


def tell_least(how: str, there: npt.NDArray[np.bool_], sure: Array) -> None:
    """What other least presences would do to all libraries that the pictures make.

    sure: (pictures, names and after them words that the model cannot know).
    """
    sure, unknown = np.split(sure, [there.shape[1]], axis=1)
    others = np.where(there, -1, sure).max(0)
    pictures, names = np.nonzero(there)
    own = sure[pictures, names]
    print(f"{how}: {len(own):,} libraries with one picture of a name, {len(others)} without")
    print('least presence | right first | "none" | "none" of unknown words | precision | recall')
    for least in LEAST:
        figures = [
            np.mean((own >= least) & (own > others[names])),
            np.mean(others < least),
            np.mean(unknown.max(0) < least) if unknown.size else np.nan,
            np.mean(there[sure >= least]),
            np.mean(own >= least),
        ]
        print(" | ".join([f"{least:.2f}", *(f"{figure:.3f}" for figure in figures)]), flush=True)


def iou(hit: Hit, truth: Truth, name: str) -> float:
    """Of a hit's best box with the thing of that name, the best of several."""
    return float(box_iou(np.array([hit.box.xyxy], float), truth.boxes_of(name)).max())


if __name__ == "__main__":
    main()
