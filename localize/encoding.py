"""Pictures through the image encoder: what costs, and depends on no prompt.

Puts windows, crops and an encoder together; must not know prompts.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from localize.crops import batches, crops_of
from localize.edges import Superpixels, superpixels
from localize.encoders import Calibration, check_crop_embeddings
from localize.encoders.checks import as_pair
from localize.encoders.device import choose_batch_size
from localize.encoders.protocol import Encoder
from localize.files import find_images
from localize.images import SUFFIXES, ImageError, ImageSource, Picture, read_ahead, until_error
from localize.names import display_name
from localize.options import Options
from localize.relevance import Opposition, map_size
from localize.windows import Grid, make_grids, within_budget

FEW_WINDOWS = 1000
"""So many windows of a picture fit into memory with any encoder."""

MAX_BYTES = 4 << 30
"""What the embeddings of one picture may take; more is a slip of the pen."""

CALIBRATION_PICTURES, CALIBRATION_CROPS = 32, 96
"""Pictures that int8 is calibrated on, and crops of them, a third of which only judge it."""

OnError: TypeAlias = Callable[[ImageSource, ImageError | TypeError], None]
Progress: TypeAlias = Callable[[int, int], None]
Array: TypeAlias = npt.NDArray[np.float32]
Vectors: TypeAlias = tuple[torch.Tensor, torch.Tensor | None]
"""Embeddings (B, D) and tokens (B, h, w, D), or None, of crops: float32, on the CPU."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What answers about a picture need of it whatever is asked.

    negatives: (K, D), those that it was worked out for. windows, tokens: the opposition of the
    picture's windows to them, and of its tokens, if any.
    """

    negatives: torch.Tensor
    windows: Opposition
    tokens: Opposition | None

    @property
    def nbytes(self) -> int:
        """What it takes in memory, besides the negatives, which it shares."""
        return self.windows.nbytes + (0 if self.tokens is None else self.tokens.nbytes)


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """A picture whose windows have been through the image encoder, ready to be asked.

    picture: the upright picture and where it came from.
    grids: the windows, scale by scale.
    embeddings: float32 (N, D), unit-norm, one a window, in the order of the grids.
    tokens: float32 (N, h, w, D), unit-norm, of the cells of each window, or None.
    source: what the picture was read from: the very path, bytes, image or array that was given.
    prepared: what `Localizer.prepare` has worked out, or None.
    """

    picture: Picture
    grids: tuple[Grid, ...]
    embeddings: torch.Tensor
    tokens: torch.Tensor | None
    source: ImageSource | None = None
    prepared: Prepared | None = None

    def __repr__(self) -> str:
        """A line: tensors would fill the screen."""
        height, width = self.picture.pixels.shape[:2]
        cells = (0, 0) if self.tokens is None else self.tokens.shape[1:3]
        tokens = f"{cells[0]} x {cells[1]} tokens each" if cells[0] else "without tokens"
        name = self.picture.file or "a picture"
        return f"<Encoded {name}, {width} x {height}: {self.num_crops} windows, {tokens}>"

    @property
    def boxes(self) -> Array:
        """The windows as xyxy in pixels of the picture, float32 (N, 4). The first is the whole."""
        return np.concatenate([grid.boxes for grid in self.grids])

    @property
    def nbytes(self) -> int:
        """What it takes in memory, the picture and its superpixels, made now, included."""
        tokens = 0 if self.tokens is None else self.tokens.nbytes
        prepared = 0 if self.prepared is None else self.prepared.nbytes
        pixels = self.picture.pixels.nbytes + sum(each.nbytes for each in self.superpixels)
        return self.embeddings.nbytes + tokens + prepared + pixels

    @property
    def num_crops(self) -> int:
        """How many crops went through the image encoder."""
        return len(self.embeddings)

    @cached_property
    def superpixels(self) -> tuple[Superpixels, ...]:
        """The segmentations that maps follow, of the maps' size; made when first asked for."""
        height, width = self.picture.pixels.shape[:2]
        return superpixels(self.picture.pixels, map_size(width, height))


class _Pending:
    """A picture whose windows are on their way through the encoder."""

    def __init__(self, source: ImageSource, picture: Picture, grids: tuple[Grid, ...]):
        self.source, self.picture, self.grids = source, picture, grids
        self.total = self.missing = sum(map(len, grids))
        self._embeddings: torch.Tensor | None = None
        self._tokens: torch.Tensor | None = None

    @property
    def done(self) -> int:
        """How many windows have been encoded."""
        return self.total - self.missing

    def take(self, embeddings: torch.Tensor, tokens: torch.Tensor | None) -> int:
        """Keep of a batch the rows that are this picture's, the first ones; returns how many."""
        count = min(self.missing, len(embeddings))
        self._embeddings = self._kept(self._embeddings, embeddings[:count])
        if tokens is not None:
            self._tokens = self._kept(self._tokens, tokens[:count])
        self.missing -= count
        return count

    def _kept(self, kept: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        """All rows in one place from the first on: for many windows a copy would be gigabytes."""
        if kept is None:
            kept = rows.new_empty(self.total, *rows.shape[1:])
        start = self.done
        kept[start : start + len(rows)] = rows
        return kept

    def encoded(self) -> Encoded:
        """The picture with all its windows encoded."""
        assert self._embeddings is not None
        return Encoded(self.picture, self.grids, self._embeddings, self._tokens, self.source)


class PictureEncoder:
    """Any encoder, put to work on pictures.

    batch_size: the most crops that go through it at once; halved where memory is short.
    """

    def __init__(self, encoder: Encoder, options: Options):
        self.encoder, self.options = encoder, options
        self.batch_size = options.batch_size or choose_batch_size(self.device)

    @property
    def device(self) -> torch.device:
        """Where the encoder takes its crops."""
        return getattr(self.encoder, "device", torch.device("cpu"))

    def encode_many(
        self,
        images: Iterable[ImageSource],
        on_error: OnError | None,
        progress: Progress | None = None,
    ) -> Iterator[Encoded]:
        """Encode pictures in their order, streamed; see `Localizer.encode_many`.

        progress: called with how many windows of a picture are encoded and of how many, after each
            batch.
        """
        waiting: deque[_Pending] = deque()
        stopped: list[Exception] = []
        crops = self._crops(until_error(self._readable(images, on_error), stopped), waiting)
        with_tokens: bool | None = None
        for embeddings, tokens in self._in_batches(crops):
            if with_tokens is not None and with_tokens != (tokens is not None):
                method = f"{type(self.encoder).__name__}.encode_crops"
                raise ValueError(f"{method} returned tokens for some batches and not for others")
            with_tokens = tokens is not None
            start = 0
            while start < len(embeddings):
                rest = None if tokens is None else tokens[start:]
                start += waiting[0].take(embeddings[start:], rest)
                if progress is not None:
                    progress(waiting[0].done, waiting[0].total)
                if not waiting[0].missing:
                    yield waiting.popleft().encoded()
        if stopped:
            raise stopped.pop()

    def embed_whole(self, picture: Picture) -> torch.Tensor:
        """The embedding (1, D) of a picture as one window."""
        height, width = picture.pixels.shape[:2]
        grids = make_grids(width, height, self.encoder.image_size, (), 1.0)
        crops = self._crops([_Pending(picture, picture, grids)], deque())
        return self._encode_batch(torch.stack(list(crops)))[0]

    def some_crops(self, pictures: Iterable[ImageSource], each: int) -> list[torch.Tensor]:
        """About so many crops (3, S, S) of each picture that can be read, spread over its
        windows."""
        kept: list[torch.Tensor] = []
        for pending in self._readable(pictures, lambda source, error: None):
            crops = list(self._crops([pending], deque()))
            kept += crops[:: max(1, len(crops) // each)][:each]
        return kept

    def _readable(
        self, images: Iterable[ImageSource], on_error: OnError | None
    ) -> Iterator[_Pending]:
        """The pictures that can be read and whose windows fit into memory, in their order."""
        for source, picture in read_ahead(images, self.options.max_pixels):
            try:
                if not isinstance(picture, Picture):
                    raise picture
                pending = _Pending(source, picture, self._grids(picture))
            except (ImageError, TypeError) as error:
                if on_error is None:
                    raise
                on_error(source, error)
            else:
                yield pending

    def _grids(self, picture: Picture) -> tuple[Grid, ...]:
        """The windows of a picture. Raises ImageError where there would be too many."""
        options, (height, width) = self.options, picture.pixels.shape[:2]
        try:
            if options.budget is not None:
                grids = within_budget(width, height, self.encoder.image_size, options.budget)
            else:
                grids = make_grids(
                    width, height, self.encoder.image_size, options.scales, options.stride
                )
            count = sum(map(len, grids))
            if count > FEW_WINDOWS and count * self._bytes_of_crop > MAX_BYTES:
                raise ValueError(
                    f"what the encoder gives for its {count:,} windows would take "
                    f"{count * self._bytes_of_crop / 2**30:.1f} GB of memory; a larger scale or "
                    "stride, or a budget, would be right"
                )
        except ValueError as error:
            name = "a picture" if picture.file is None else display_name(picture.file)
            raise ImageError(f"cannot search {name}: {error}") from error
        return grids

    @cached_property
    def _bytes_of_crop(self) -> int:
        """What the encoder gives for one crop, embedding and tokens, in bytes of float32."""
        side = self.encoder.image_size
        embeddings, tokens = self._encode_batch(torch.zeros(1, 3, side, side, device=self.device))
        return 4 * (embeddings.numel() + (0 if tokens is None else tokens.numel()))

    def _crops(
        self, pictures: Iterable[_Pending], waiting: deque[_Pending]
    ) -> Iterator[torch.Tensor]:
        """The crops of all pictures, one after the other; notes in `waiting` whose they are."""
        encoder = self.encoder
        for pending in pictures:
            waiting.append(pending)
            yield from crops_of(
                pending.picture.pixels,
                pending.grids,
                encoder.mean,
                encoder.std,
                getattr(encoder, "interpolation", "bicubic"),
                self.device,
            )

    def _in_batches(self, crops: Iterable[torch.Tensor]) -> Iterator[Vectors]:
        """What the encoder gives for all crops, batch by batch.

        A GPU is given the next batch before what it made of the last one is waited for. What it
        made before an error is given before the error is raised.
        """
        ahead = 1 if self._waits_apart else 0
        stopped: list[Exception] = []
        under_way: deque[Callable[[], Vectors]] = deque()
        for result in until_error(map(self._begin, self._batches(crops)), stopped):
            under_way.append(result)
            if len(under_way) > ahead:
                yield under_way.popleft()()
        for result in under_way:
            yield result()
        if stopped:
            raise stopped.pop()

    @property
    def _waits_apart(self) -> bool:
        """Whether the device goes on by itself while its results are waited for."""
        return self.device.type == "cuda"

    def _batches(self, crops: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Batches of crops, as many in each as memory has allowed by then."""
        crops = iter(crops)
        while (batch := next(batches(crops, self.batch_size), None)) is not None:
            yield batch

    def _encode_batch(self, batch: torch.Tensor) -> Vectors:
        return self._begin(batch)()

    def _begin(self, batch: torch.Tensor) -> Callable[[], Vectors]:
        """Encode crops (B, 3, S, S), in halves where the device's memory is too small for all.

        Returns what waits for the result.
        """
        try:
            with torch.inference_mode():
                vectors = as_pair(self.encoder, self.encoder.encode_crops(batch))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        else:
            return self._result(*vectors, count=len(batch))
        # Out of the handler, as the error holds on to what the forward had made.
        half = (len(batch) + 1) // 2
        if half < self.batch_size:
            self.batch_size = half
            message = f"out of memory on the device; going on with batches of {half}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        halves = [self._encode_batch(part) for part in batch.split(half)]
        return lambda: _joined(halves)

    def _result(self, embeddings: Any, tokens: Any, count: int) -> Callable[[], Vectors]:
        """What waits for the vectors of so many crops, and checks them."""
        fetch_embeddings, fetch_tokens = (
            _fetching(each, self._waits_apart) for each in (embeddings, tokens)
        )

        def result() -> Vectors:
            embeddings, tokens = fetch_embeddings(), fetch_tokens()
            check_crop_embeddings(self.encoder, embeddings, tokens, count)
            return embeddings.float(), None if tokens is None else tokens.float()

        return result


def _joined(parts: list[Vectors]) -> Vectors:
    tokens = [tokens for _, tokens in parts if tokens is not None]
    return torch.cat([embeddings for embeddings, _ in parts]), torch.cat(tokens) if tokens else None


def _fetching(vectors: Any, later: bool) -> Callable[[], Any]:
    """Begin to copy vectors to the CPU; returns what waits for them. What is no tensor stays.

    later: more is encoded before they are waited for, so that memory which the encoder keeps for
        itself will not do.
    From a GPU they come through memory that it can write to by itself.
    """
    if not isinstance(vectors, torch.Tensor):
        return lambda: vectors
    if vectors.device.type != "cuda":
        here = vectors.to("cpu", copy=later)
        return lambda: here
    copy = vectors.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(vectors.device))

    def wait() -> torch.Tensor:
        arrived.synchronize()
        return copy

    return wait


def calibration_of(
    pictures: str | os.PathLike[str] | Iterable[ImageSource],
    options: Options = Options(),  # noqa: B008
) -> Calibration:
    """Crops of pictures, or of those in a folder, as the options cut them."""
    identity = ""
    if isinstance(pictures, str | os.PathLike):
        found, problems = find_images([pictures], SUFFIXES)
        if not found:
            raise ValueError(problems[0] if problems else f"{pictures} holds no pictures")
        identity = " ".join(f"{path.resolve()} {path.stat().st_mtime_ns}" for path in found)
        pictures = found

    def crops(encoder: Encoder) -> torch.Tensor:
        chosen = list(islice(pictures, CALIBRATION_PICTURES))
        each = -(-CALIBRATION_CROPS // max(1, len(chosen)))
        kept = PictureEncoder(encoder, options).some_crops(chosen, each)
        return torch.stack(kept) if kept else torch.empty(0)

    return Calibration(crops, identity)
