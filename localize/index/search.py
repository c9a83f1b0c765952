"""Asking a store: which pictures show it, and where; or none.

Knows windows' embeddings and how they are scored; must not know how relevance is drawn.

The store ranks windows by the probability of a prompt against the whole bank of negatives. What
comes first is scored again exactly as `locate` scores windows: without the prompt's near-synonyms
among the negatives, with the negatives of the user's own, and the best of alternatives. The best
pictures are then looked at once more with the full method.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from localize.encoders import checkpoint_identity
from localize.images import ImageError, ImageSource
from localize.index.schema import asking_vector, boxes_in, embeddings_in
from localize.index.store import Store, StoreError
from localize.index.updates import settings_of
from localize.localizer import Localizer
from localize.names import display_name
from localize.options import Options
from localize.prompts import Prompt
from localize.relevance import Contest
from localize.result import Box, Localization

if TYPE_CHECKING:
    import pyarrow

Array = npt.NDArray[np.float32]
Prompts = str | Prompt | Sequence[str | Prompt]

MIN_PRESENCE = 0.7
"""Least presence of a hit. Where .5 would do for one picture, of hundreds one may chance on more:
see docs/library.md."""

FEW_LOOKS, LOOKS = 10, 2
"""So many pictures may be looked at again, or so many times as many as are wanted: some are found
not to show it."""

AHEAD = 20
"""How many times as many windows as pictures are wanted are fetched first: of one picture many
windows may show the same."""

LEAST_FETCHED = 400
"""Windows that are fetched first at least."""

NPROBES, REFINE = 256, 2
"""Partitions of the approximate index that are read, and how many times as many windows as wanted
are compared by their whole vectors."""


@dataclass(frozen=True)
class Hit:
    """A picture that shows what was asked for.

    file: its whole path. width, height: of the upright picture, in pixels.
    presence: how sure it is that all that was asked for is there, in [0, 1]: of several prompts the
        least sure one's.
    boxes: for each prompt, in their order, its best place; further places of the second look come
        after them, best first. The score is the prompt's presence where the box is a window, and
        the chance that the box is right where the picture was looked at again.
    presences: of each prompt, in their order. By windows alone it is the best window's probability,
        as `locate` has it without tokens; after the second look the geometric mean of that and the
        best box's score, 0 where there is no box.
    exact: whether the picture was looked at again.
    taken: when, where the file says so. camera: with what.
    """

    file: str
    width: int
    height: int
    presence: float
    boxes: tuple[Box, ...]
    presences: tuple[float, ...]
    exact: bool = False
    taken: datetime | None = None
    camera: str | None = None

    @property
    def box(self) -> Box:
        """The best place of the first prompt."""
        return self.boxes[0]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, boxes in whole pixels as in the JSON of a picture."""
        corners = ("xmin", "ymin", "xmax", "ymax")
        return {
            "file": self.file,
            "width": self.width,
            "height": self.height,
            "presence": round(self.presence, 4),
            "presences": [round(presence, 4) for presence in self.presences],
            "exact": self.exact,
            "taken": None if self.taken is None else self.taken.isoformat(),
            "camera": self.camera,
            "boxes": [
                {
                    "label": box.label,
                    "score": round(box.score, 4),
                    "box": dict(zip(corners, map(round, box.xyxy), strict=True)),
                }
                for box in self.boxes
            ],
        }


class Index:
    """A store and the model that its windows were made with.

    Each search is of the store as it then is.

    on_look: called, where it is set, with the full answer for each picture that a search looks at
        again, whether it becomes a hit or not.

    >>> index = Index.open("library")
    >>> index.search("a red kite", top=20)
    """

    def __init__(self, store: Store, localizer: Localizer):
        self.store, self.localizer = store, localizer
        self.on_look: Callable[[Localization], object] | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        localizer: Localizer | None = None,
        model: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        unpickle: bool = False,
    ) -> Index:
        """Open a store with its model.

        localizer: with the encoder that the store was made with, where that has no name to be
            loaded by. model: where that model is now, if it was moved. device, dtype, unpickle: as
            in `Localizer.from_pretrained`.

        Raises StoreError where there is no store, or it was made with another model,
        encoders.CheckpointError where the model cannot be loaded, and ImportError without the extra
        `index`.
        """
        store = Store.open(path)
        have = store.settings
        checkpoint = None
        options = Options(scales=have.scales, stride=have.stride, budget=have.budget)
        if localizer is None:
            name = model or have.model
            checkpoint = checkpoint_identity(name, unpickle=unpickle)
            if checkpoint != have.checkpoint:
                raise StoreError(
                    f"the store {display_name(path)} was made with other files of the model "
                    f"{have.model} than those of {name}; name the model that it was made with"
                )
            localizer = Localizer.from_pretrained(
                name, device=device, dtype=dtype, unpickle=unpickle, options=options
            )
        else:
            taken = replace(options, negatives=localizer.options.negatives)
            localizer = Localizer(localizer.encoder, taken)
        store.check(settings_of(localizer, checkpoint))
        return cls(store, localizer)

    def __len__(self) -> int:
        """How many pictures can be found."""
        return self.store.count_pictures()

    def search(
        self,
        prompts: Prompts,
        *,
        top: int = 20,
        negatives: Sequence[str] = (),
        min_presence: float = MIN_PRESENCE,
        folder: str | os.PathLike[str] | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        fast: bool = False,
    ) -> list[Hit]:
        """The pictures that show all of the prompts, surest first; none where there are none.

        prompts: as in `locate`. Of several all must be there; for one that may be several things,
            `Prompt.of("vehicle", any=["car", "bus"])`; for a picture of it, `Prompt.from_image`.
        negatives: words to score against, besides the store's own.
        min_presence: the least presence of a hit, in [0, 1].
        folder: only pictures below it. after, before: only those taken from the one on, and up to
            but not at the other; none whose time is unknown.
        fast: take windows for boxes, without a second look at the pictures.

        Raises ValueError or TypeError for what cannot be asked.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, not {top}")
        if not 0 <= min_presence <= 1:
            raise ValueError(f"min_presence must be in [0, 1], not {min_presence}")
        asked = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
        localizer = self.localizer
        if negatives:
            options = replace(localizer.options, negatives=tuple(negatives))
            localizer = Localizer(localizer.encoder, options)
        self.store.refresh()
        wanted = _Filter.of(folder, after, before)
        contest = localizer.contest(asked)
        labels = [each if isinstance(each, str) else each.label for each in asked]
        ask = _Search(self.store, contest, labels, localizer)
        if fast:
            return ask.hits(top, min_presence, wanted)
        # A second look gives no more than the root of a presence.
        likely = ask.hits(max(FEW_LOOKS, LOOKS * top), min_presence**2, wanted)
        hits: list[Hit] = []
        for number, hit in enumerate(_look_again(likely, asked, localizer, self.on_look), 1):
            hits += [hit] if hit.presence >= min_presence else []
            if len(hits) >= top and number >= FEW_LOOKS:
                break
        return sorted(hits, key=_surest_first)[:top]


@dataclass(frozen=True)
class _Filter:
    """Which pictures may be hits."""

    below: str | None
    after: datetime | None
    before: datetime | None

    @classmethod
    def of(
        cls,
        folder: str | os.PathLike[str] | None,
        after: datetime | None,
        before: datetime | None,
    ) -> _Filter:
        below = None if folder is None else os.path.join(os.path.abspath(folder), "")
        return cls(below, after, before)

    def takes(self, row: dict[str, Any]) -> bool:
        """Whether it takes a row of the pictures' table."""
        if self.below is not None and not row["path"].startswith(self.below):
            return False
        taken = row["taken"]
        if self.after is None and self.before is None:
            return True
        return (
            taken is not None
            and (self.after is None or taken >= self.after)
            and (self.before is None or taken < self.before)
        )


class _Search:
    """One question to a store."""

    def __init__(self, store: Store, contest: Contest, labels: list[str], localizer: Localizer):
        self.store, self.contest, self.labels = store, contest, labels
        self.scale = localizer.encoder.logit_scale
        self.dimensions = store.settings.dimensions
        self.bank = len(localizer.bank)

    def hits(self, top: int, least: float, wanted: _Filter) -> list[Hit]:
        """The best pictures, by windows alone.

        Windows are fetched until there are enough pictures, or until those that are left are like
        something else; twice as many each time.
        """
        total = self.store.count_windows()
        count = max(LEAST_FETCHED, AHEAD * top)
        while True:
            fetched = [self._fetched(prompt, count) for prompt in range(self.contest.prompts)]
            best = self._best_windows([rows for rows, _ in fetched])
            hits = list(self._hits_of(best, least, wanted))
            # A picture that shows all prompts is among the windows of each.
            ended = count >= total or any(lowest < least for _, lowest in fetched)
            if ended or len(hits) >= top:
                return sorted(hits, key=_surest_first)[:top]
            count *= 2

    def _fetched(self, prompt: int, count: int) -> tuple[pyarrow.Table, float]:
        """The windows most like a prompt, and an estimate of the best presence of the others.

        A window that shows a near-synonym of the prompt ranks low, as the synonym weighs on it;
        those are found by the cosine alone.
        """
        import pyarrow as pa

        parts, lowest = [], 0.0
        for alternative in torch.nonzero(self.contest.owner == prompt)[:, 0].tolist():
            asking = asking_vector(self.contest.wanted[alternative].numpy())
            rows = self._nearest(asking, count)
            parts.append(rows)
            if self.contest.against[alternative, : self.bank].all():
                likeness = 1 - float(rows["_distance"][-1].as_py()) if len(rows) else -1.0
                lowest = max(lowest, float(torch.sigmoid(torch.tensor(self.scale * likeness))))
                continue
            cosine = asking.copy()
            cosine[self.dimensions :] = 0
            parts.append(self._nearest(cosine, count))
            # How much a synonym weighs on them is in no order, so the last few tell.
            for fetched in filter(len, parts[-2:]):
                few = fetched.slice(len(fetched) - max(1, len(fetched) // 10))
                scores = self.contest.scores(embeddings_in(few, self.dimensions), self.scale)
                lowest = max(lowest, float(scores[:, prompt].max()))
        return pa.concat_tables(parts), lowest

    def _nearest(self, asking: Array, count: int) -> pyarrow.Table:
        query = self.store.windows.search(asking, vector_column_name="vector")
        query = query.distance_type("dot").nprobes(NPROBES).refine_factor(REFINE)
        columns = ["content", "box", "vector", "_distance"]
        return query.select(columns).limit(count).to_arrow()

    def _best_windows(self, fetched: list[pyarrow.Table]) -> dict[str, list[tuple[float, Array]]]:
        """Of each content that was fetched the best window of each prompt: presence and box."""
        import pyarrow as pa

        columns = ["content", "box", "vector"]
        if len(fetched) == 1:
            rows = fetched[0].select(columns)
        else:  # What was fetched for one prompt may show another in a window that was not.
            contents = pa.concat_tables(fetched)["content"].to_pylist()
            rows = self.store.windows_of(contents).select(columns)
        scores = self.contest.scores(embeddings_in(rows, self.dimensions), self.scale).numpy()
        boxes = boxes_in(rows)
        best: dict[str, list[tuple[float, Array]]] = {}
        for content, of_window, box in zip(
            rows["content"].to_pylist(), scores.tolist(), boxes, strict=True
        ):
            places = best.setdefault(content, [(-1.0, box)] * len(of_window))
            for prompt, score in enumerate(of_window):
                if score > places[prompt][0]:
                    places[prompt] = (score, box)
        return best

    def _hits_of(
        self, best: dict[str, list[tuple[float, Array]]], least: float, wanted: _Filter
    ) -> Iterator[Hit]:
        """The files with a content that is sure enough."""
        sure = {
            content: places
            for content, places in best.items()
            if min(score for score, _ in places) >= least
        }
        for row in self.store.pictures_of(sure):
            if wanted.takes(row):
                places = sure[row["content"]]
                presences = tuple(score for score, _ in places)
                yield Hit(
                    row["path"],
                    row["width"],
                    row["height"],
                    min(presences),
                    tuple(
                        Box(label, score, tuple(box.tolist()))
                        for label, (score, box) in zip(self.labels, places, strict=True)
                    ),
                    presences,
                    taken=row["taken"],
                    camera=row["camera"],
                )


def _surest_first(hit: Hit) -> tuple[float, str]:
    return -hit.presence, hit.file


def _look_again(
    hits: Sequence[Hit],
    prompts: Sequence[str | Prompt],
    localizer: Localizer,
    on_look: Callable[[Localization], object] | None,
) -> Iterator[Hit]:
    """The hits as the full method sees them, where their files can still be read."""

    def leave(source: ImageSource, error: ImageError | TypeError) -> None:
        """It stays as it is."""

    results = localizer.locate_many([hit.file for hit in hits], prompts, leave)
    remaining = iter(hits)
    for result in results:
        for hit in remaining:
            if hit.file == result.source:
                if on_look is not None:
                    on_look(result)
                yield _seen_again(hit, result.boxes)
                break
            yield hit
    yield from remaining


def _seen_again(hit: Hit, found: Iterable[Box]) -> Hit:
    """A hit with the best box of each prompt, and then all others.

    A prompt that has no box then keeps its window, with a score of 0. How sure a window is and how
    plainly something stands out of the map there are two witnesses, who are seldom wrong together.
    """
    left, boxes, presences = list(found), [], []
    for window, presence in zip(hit.boxes, hit.presences, strict=True):
        best = next((box for box in left if box.label == window.label), None)
        if best is not None:
            left.remove(best)
        boxes.append(best or replace(window, score=0.0))
        presences.append(math.sqrt(presence * boxes[-1].score))
    return replace(
        hit,
        presence=min(presences),
        presences=tuple(presences),
        boxes=(*boxes, *left),
        exact=True,
    )
