"""The two verbs: `encode`, which costs, and `locate`, which does not.

Puts the parts together; knows no file formats and does no arithmetic of its own.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from localize.boxes import contrast_of, enlarged, find_boxes
from localize.crops import batches, crops_of
from localize.edges import Superpixels, follow_edges, superpixels
from localize.encoders import Calibration, check_crop_embeddings, load_encoder
from localize.encoders.checks import as_pair, check_encoder, check_same_length
from localize.encoders.device import choose_batch_size
from localize.encoders.protocol import Encoder
from localize.files import find_images
from localize.images import SUFFIXES, ImageError, ImageSource, Picture, read_ahead
from localize.names import display_name
from localize.options import Options
from localize.prompts import BANK, Prompt, PromptEmbedder, as_prompt, in_words, parts_of
from localize.relevance import (
    FAINT,
    Contest,
    Opposition,
    best_of,
    distinct,
    map_size,
    presences,
    relevance_maps,
    rivals,
    synonym_limit,
    with_peaks,
)
from localize.result import Box, Localization
from localize.windows import Grid, make_grids, within_budget

PROMPTS_AT_ONCE = 128
"""The most prompts that are answered together: their maps take some 10 MB a copy."""

SCORES_AT_ONCE = 1 << 22
"""The most scores, of all windows' cells with the prompts answered together: 16 MB a copy."""

FEW_WINDOWS = 1000
"""So many windows of a picture fit into memory with any encoder."""

MAX_BYTES = 4 << 30
"""What the embeddings of one picture may take; more is a slip of the pen."""

LOCATED_AHEAD = 1
"""Encoded pictures that wait, in `locate_many`, besides the one that is located."""

CALIBRATION_PICTURES, CALIBRATION_CROPS = 32, 96
"""Pictures that int8 is calibrated on, and crops of them, a third of which only judge it."""

OnError: TypeAlias = Callable[[ImageSource, ImageError | TypeError], None]
Progress: TypeAlias = Callable[[int, int], None]
Array: TypeAlias = npt.NDArray[np.float32]
Some = TypeVar("Some")


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


@dataclass(frozen=True, eq=False)
class _Queries:
    """What P prompts are made of: Q embeddings of texts, one an alternative.

    wanted: float32 (Q, D). owner: int64 (Q,), the prompt of each. sureness: float32 (Q,), how far
    each can be trusted, or None: wholly. unlike: (L, D), what the prompts
    `unlike_owner` (L,) are not, or None. thresholds: P, the least score of a box of each.
    """

    wanted: torch.Tensor
    owner: torch.Tensor
    unlike: torch.Tensor | None
    unlike_owner: torch.Tensor
    thresholds: tuple[float, ...]
    sureness: torch.Tensor | None = None

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.thresholds)


class Localizer:
    """Finds things in pictures by words, with any encoder of the `Encoder` protocol.

    >>> localizer = Localizer.from_pretrained("emoji")
    >>> result = localizer.locate("photo.jpg", ["a cat", "a butterfly"])
    >>> result.boxes, result.presence

    It can be pickled where its encoder can (those that `from_pretrained` loads are pickled as their
    name and loaded again); of what it has embedded nothing goes along.
    """

    def __init__(self, encoder: Encoder, options: Options = Options()):  # noqa: B008
        _check_options(options)
        check_encoder(encoder)
        self.encoder = encoder
        self.options = options
        self.batch_size = options.batch_size or choose_batch_size(self._device)
        self._embed = PromptEmbedder(encoder)
        self._pictures: WeakKeyDictionary[Picture, tuple[torch.Tensor, float]] = WeakKeyDictionary()
        bank = getattr(encoder, "negatives", None) or BANK
        self._bank = [as_prompt(word) for word in bank]

    def __reduce__(self) -> tuple[type[Localizer], tuple[Encoder, Options]]:
        return type(self), (self.encoder, self.options)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool = False,
        unpickle: bool = False,
        calibration: str | os.PathLike[str] | Iterable[ImageSource] | None = None,
        options: Options = Options(),  # noqa: B008
    ) -> Localizer:
        """Load a hub id[@revision], a local folder, "open_clip:ARCHITECTURE/TAG" or "emoji".

        device: "auto", "cpu", "cuda", "mps", ... dtype: "auto", "float32", "bfloat16", "float16",
            and on a CPU "int8".
        compile: use towers compiled for this machine; see `encoders.load_encoder`.
        unpickle: open weights that exist only as a pickle, with torch's weights-only unpickler.
        calibration: for "int8", pictures like those to come, to quantize the model on unless that
            has been done on this machine; or a folder of them, which is done again where it was
            done on others.
        Raises encoders.CheckpointError, in one sentence, when it cannot be loaded.
        """
        _check_options(options)
        encoder = load_encoder(
            model,
            device=device,
            dtype=dtype,
            compile=compile,
            unpickle=unpickle,
            calibration=None if calibration is None else calibration_of(calibration, options),
        )
        return cls(encoder, options)

    @property
    def model(self) -> str:
        """The name of the encoder, as results show it."""
        return str(getattr(self.encoder, "name", type(self.encoder).__name__))

    @property
    def _device(self) -> torch.device:
        """Where the encoder takes its crops."""
        return getattr(self.encoder, "device", torch.device("cpu"))

    def encode(self, image: ImageSource, progress: Progress | None = None) -> Encoded:
        """Put every window of a picture through the image encoder. Depends on no prompt.

        image: a path, bytes, a PIL image or an array; see `images.read_image`.
        progress: called with how many windows are encoded and of how many, after each batch.
        """
        return next(self._encode_many([image], None, progress))

    def encode_many(
        self, images: Iterable[ImageSource], on_error: OnError | None = None
    ) -> Iterator[Encoded]:
        """Encode pictures in their order, streamed.

        Pictures are read ahead in threads, and batches are filled across pictures.
        on_error: called with each source that cannot be read, and why (an ImageError; a TypeError
            for what is no picture at all); it is then left out. Without it that is raised, once
            the pictures before it have been given.

        Raises TypeError at once for one picture in place of several.
        """
        _check_several(images)
        return self._encode_many(images, on_error)

    def _encode_many(
        self,
        images: Iterable[ImageSource],
        on_error: OnError | None,
        progress: Progress | None = None,
    ) -> Iterator[Encoded]:
        waiting: deque[_Pending] = deque()
        stopped: list[Exception] = []
        crops = self._crops(_until_error(self._readable(images, on_error), stopped), waiting)
        with_tokens: bool | None = None
        for batch in batches(crops, self.batch_size):
            embeddings, tokens = self._encode_batch(batch)
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
            raise stopped[0]

    def prepare(self, encoded: Encoded) -> Encoded:
        """The same picture, for one that will be asked again and again.

        Answers are the same to the last digit and come several times as quick; it takes as many
        floats more for each window and each token as there are negatives.
        """
        scale, negatives = self.encoder.logit_scale, self._all_negatives
        windows = Opposition.of(encoded.embeddings, negatives, scale)
        tokens = None if encoded.tokens is None else Opposition.of(encoded.tokens, negatives, scale)
        return replace(encoded, prepared=Prepared(negatives, windows, tokens))

    def locate(
        self, image: ImageSource | Encoded, prompts: str | Prompt | Sequence[str | Prompt]
    ) -> Localization:
        """Say where each prompt is: relevance maps, boxes, and how sure it is of each.

        image: what `encode` takes, or what it gave.
        prompts: one or more; a bare noun ("cat") is put into templates, a phrase is taken as is.
        Each prompt is judged by itself: asking others along with it does not change its answer.
        """
        encoded = image if isinstance(image, Encoded) else self.encode(image)
        asked = _as_prompts(prompts)
        picture = encoded.picture
        cells = encoded.num_crops if encoded.tokens is None else encoded.tokens[..., 0].numel()
        at_once = max(1, min(PROMPTS_AT_ONCE, SCORES_AT_ONCE // cells))
        width, height = map_size(picture.pixels.shape[1], picture.pixels.shape[0])
        all_presence = np.empty(len(asked), np.float32)
        all_maps = np.empty((len(asked), height, width), np.float32)
        found: dict[str, list[Box]] = {}
        for start in range(0, len(asked), at_once):
            part = slice(start, start + at_once)
            presence, maps, to_cut = self._relevance(encoded, self._queries(asked[part]))
            self._find_boxes(found, picture, asked[part], presence, to_cut)
            all_presence[part], all_maps[part] = presence, with_peaks(maps, presence)
        return Localization(
            pixels=picture.pixels,
            file=picture.file,
            notes=picture.notes,
            model=self.model,
            prompts=tuple(prompt.label for prompt in asked),
            presence=all_presence,
            maps=all_maps,
            boxes=sorted(chain.from_iterable(found.values()), key=lambda box: -box.score),
            source=encoded.source,
        )

    def locate_many(
        self,
        images: Iterable[ImageSource],
        prompts: str | Prompt | Sequence[str | Prompt],
        on_error: OnError | None = None,
    ) -> Iterator[Localization]:
        """`locate` for many pictures, streamed in their order; `on_error` as in `encode_many`.

        A result's `source` says which of the pictures it is of. A picture is located in a thread
        while the next one is encoded.
        """
        return self._locate_many(self.encode_many(images, on_error), _as_prompts(prompts))

    def _locate_many(
        self, pictures: Iterator[Encoded], asked: list[Prompt]
    ) -> Iterator[Localization]:
        self._contest(self._queries(asked))  # So that this thread alone calls the encoder.
        waiting: deque[Future[Localization]] = deque()
        stopped: list[Exception] = []
        with ThreadPoolExecutor(1) as beside:
            for encoded in _until_error(pictures, stopped):
                waiting.append(beside.submit(self.locate, encoded, asked))
                if len(waiting) > LOCATED_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        if stopped:
            raise stopped[0]

    def classify(
        self, image: ImageSource | Encoded, prompts: str | Prompt | Sequence[str | Prompt]
    ) -> Array:
        """Which of the prompts fits the picture as a whole: probabilities, float32 (P,).

        The softmax over the prompts of logit_scale * cosine, as CLIP classifies.
        """
        encoded = image if isinstance(image, Encoded) else self.encode(image)
        logits = self.encoder.logit_scale * self.embed_prompts(prompts) @ encoded.embeddings[0]
        return np.asarray(torch.softmax(logits, 0).numpy(), np.float32)

    def embed_prompts(self, prompts: str | Prompt | Sequence[str | Prompt]) -> torch.Tensor:
        """The unit-norm embeddings of the prompts, float32 (P, D), templates and alternatives
        averaged."""
        queries = self._queries(_as_prompts(prompts))
        sums = torch.zeros(queries.prompts, queries.wanted.shape[1])
        return F.normalize(sums.index_add(0, queries.owner, queries.wanted), dim=-1)

    @property
    def bank(self) -> torch.Tensor:
        """The negatives that every prompt is scored against, unit-norm (K, D)."""
        return self._negatives[0]

    @property
    def bank_words(self) -> tuple[str, ...]:
        """The words of the bank, (K,)."""
        return tuple(word.label for word in self._bank)

    def contest(self, prompts: str | Prompt | Sequence[str | Prompt]) -> Contest:
        """What windows are scored by for these prompts, by whoever keeps embeddings."""
        return self._contest(self._queries(_as_prompts(prompts)))

    def _queries(self, prompts: Sequence[Prompt]) -> _Queries:
        """The embeddings of all alternatives of prompts."""
        alternatives = [each for prompt in prompts for each in prompt.alternatives]
        counts = torch.tensor([len(prompt.alternatives) for prompt in prompts])
        unlike = [each for prompt in prompts for each in prompt.against]
        unlike_counts = torch.tensor([len(prompt.against) for prompt in prompts])
        numbers = torch.arange(len(prompts))
        return _Queries(
            self._embed_all(alternatives),
            numbers.repeat_interleave(counts),
            self._embed_all(unlike) if unlike else None,
            numbers.repeat_interleave(unlike_counts),
            tuple(map(self._threshold, prompts)),
            self._sureness(alternatives),
        )

    def _sureness(self, alternatives: Sequence[tuple[str, ...] | Picture]) -> torch.Tensor | None:
        """Texts say what they mean. A picture is trusted as far as it shows its own words."""
        if not any(isinstance(each, Picture) for each in alternatives):
            return None
        return torch.tensor(
            [self._in_words(each)[1] if isinstance(each, Picture) else 1.0 for each in alternatives]
        )

    def _threshold(self, prompt: Prompt) -> float:
        """The least score of a box of a prompt: its own or, where it has none, the options'."""
        return self.options.threshold if prompt.threshold is None else prompt.threshold

    def _embed_all(self, alternatives: Sequence[tuple[str, ...] | Picture]) -> torch.Tensor:
        """The embeddings (Q, D) of ensembles of texts, and of pictures in words."""
        texts = [each for each in alternatives if not isinstance(each, Picture)]
        embedded = iter(self._embed(texts) if texts else ())
        return torch.stack(
            [
                self._in_words(each)[0] if isinstance(each, Picture) else next(embedded)
                for each in alternatives
            ]
        )

    def _in_words(self, picture: Picture) -> tuple[torch.Tensor, float]:
        """What a picture shows as an embedding of text (D,), and how sure it is that it shows that;
        worked out once."""
        if picture not in self._pictures:
            height, width = picture.pixels.shape[:2]
            pending = _Pending(
                picture, picture, make_grids(width, height, self.encoder.image_size, (), 1.0)
            )
            embedding, _ = self._encode_batch(torch.stack(list(self._crops([pending], deque()))))
            bank, scale = self._negatives[0], self.encoder.logit_scale
            words, alone = in_words(embedding, bank, scale), torch.zeros(1, dtype=torch.int64)
            contest = self._contest(_Queries(words, alone, None, alone, (0.0,)))
            self._pictures[picture] = words[0], float(contest.scores(embedding, scale))
        return self._pictures[picture]

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
        embeddings, tokens = self._encode_batch(torch.zeros(1, 3, side, side, device=self._device))
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
                self._device,
            )

    def _encode_batch(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode crops (B, 3, S, S), in halves where the device's memory is too small for all."""
        try:
            with torch.inference_mode():
                embeddings, tokens = as_pair(self.encoder, self.encoder.encode_crops(batch))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            half = (len(batch) + 1) // 2
            if half < self.batch_size:
                self.batch_size = half
                message = f"out of memory on the device; going on with batches of {half}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            halves = [self._encode_batch(part) for part in batch.split(half)]
            tokens_of_halves = [tokens for _, tokens in halves if tokens is not None]
            return (
                torch.cat([embeddings for embeddings, _ in halves]),
                torch.cat(tokens_of_halves) if tokens_of_halves else None,
            )
        check_crop_embeddings(self.encoder, embeddings, tokens, len(batch))
        return embeddings.float().cpu(), None if tokens is None else tokens.float().cpu()

    @cached_property
    def _negatives(self) -> tuple[torch.Tensor, torch.Tensor, float]:
        """The bank (K, D), the user's own negatives (L, D), and the bank's `synonym_limit`."""
        bank = self._embed([word.texts for word in self._bank])
        own = [as_prompt(word).texts for word in self.options.negatives]
        return bank, self._embed(own) if own else bank[:0], synonym_limit(bank)

    @cached_property
    def _all_negatives(self) -> torch.Tensor:
        """The bank and the user's own negatives, (K + L, D)."""
        return torch.cat(self._negatives[:2])

    @cached_property
    def _parts(self) -> torch.Tensor:
        """Which words of the bank are parts of which, bool (K, K)."""
        return parts_of(self.bank_words)

    def _relevance(
        self, encoded: Encoded, queries: _Queries
    ) -> tuple[Array, Array, dict[int, tuple[Array, Array]]]:
        """Presence (P,) and maps (P, h, w) of prompts.

        Tokens, distinctness and edges are worth their time only for what may be in the picture: the
        map of a prompt whose presence is below FAINT is that of its windows. Third come, by the
        numbers of the prompts that can have boxes, the maps to cut them out of, and the same before
        they were made distinct.
        """
        windows, tokens = self._scores(encoded, queries)
        presence = presences(windows, tokens)
        maps = relevance_maps(encoded.grids, windows, None)
        cells = encoded.embeddings[:, None, None] if encoded.tokens is None else encoded.tokens
        likeness = best_of(cells @ queries.wanted.T, queries.owner, queries.prompts)
        to_cut: dict[int, tuple[Array, Array]] = {}
        # Apart, so that a map is the same to the last digit whatever is reported.
        clear, faint = presence >= FAINT, presence >= [*map(contrast_of, queries.thresholds)]
        for here in (np.flatnonzero(clear), np.flatnonzero(faint & ~clear)):
            if len(here):
                some = None if tokens is None else tokens[..., here]
                plain = relevance_maps(encoded.grids, windows[:, here], some)
                sharp = distinct(plain, encoded.grids, likeness[..., here])
                edged = follow_edges(np.concatenate([sharp, plain]), encoded.superpixels)
                pairs = zip(*np.split(edged, 2), strict=True)
                to_cut |= dict(zip(here.tolist(), pairs, strict=True))
        for number in np.flatnonzero(clear).tolist():
            maps[number] = to_cut[number][0]
        return presence, maps, to_cut

    def _scores(
        self, encoded: Encoded, queries: _Queries
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """How much windows (N, P) and tokens (N, h, w, P), if any, look like prompts."""
        scale, tokens = self.encoder.logit_scale, encoded.tokens
        contest = self._contest(queries)
        check_same_length(self.encoder, contest.wanted, encoded.embeddings)
        of_windows, of_tokens = None, None
        known = encoded.prepared
        if known is not None and known.negatives is contest.negatives:
            of_windows, of_tokens = known.windows, known.tokens
        best = contest.scores(encoded.embeddings, scale, opposition=of_windows)
        if tokens is None:
            return best, None
        temper = getattr(self.encoder, "token_scale", scale) / scale
        return best, contest.scores(tokens, scale, temper, of_tokens)

    def _contest(self, queries: _Queries) -> Contest:
        """What is no rival of one of a prompt's alternatives is none of the others either."""
        bank, own, limit = self._negatives
        wanted, owner, count = queries.wanted, queries.owner, queries.prompts
        against = rivals(wanted, bank, own, limit, self._parts)
        near = best_of((~against).float().T, owner, count).T.bool()
        against = ~near[owner]
        unlike = None
        if queries.unlike is not None:
            unlike = queries.unlike, owner[:, None] == queries.unlike_owner
        return Contest(wanted, owner, self._all_negatives, against, count, unlike, queries.sureness)

    def _find_boxes(
        self,
        found: dict[str, list[Box]],
        picture: Picture,
        prompts: Sequence[Prompt],
        presence: Array,
        maps: dict[int, tuple[Array, Array]],
    ) -> None:
        """Put the boxes of prompts into `found`. None is surer than its prompt's presence."""
        first = picture.pixels[0]
        if (first == first[0]).all() and (picture.pixels == first).all():
            return  # Nothing stands out of a picture of one colour.
        height, width = picture.pixels.shape[:2]
        for number, (sharp, plain) in maps.items():
            prompt, sure = prompts[number], float(presence[number])
            if prompt.label in found:  # A prompt that is asked twice gets its boxes once.
                continue
            boxes = find_boxes(sharp, plain, sure, self._threshold(prompt))
            found[prompt.label] = [
                Box(prompt.label, score, (left, top, right, bottom))
                for left, top, right, bottom, score in enlarged(
                    boxes, sharp.shape[::-1], (width, height)
                ).tolist()
            ]


def _until_error(pictures: Iterable[Some], stopped: list[Exception]) -> Iterator[Some]:
    """The pictures up to the first error, which goes into `stopped`: those before it are good."""
    try:
        yield from pictures
    except Exception as error:
        stopped.append(error)


def _check_options(options: Options) -> None:
    """Raise TypeError for what are no options, before anything is loaded for them."""
    if not isinstance(options, Options):
        raise TypeError(
            f"options must be an Options, as in Options(threshold=0.2), not {options!r}"
        )


def _check_several(images: Iterable[ImageSource]) -> None:
    """Raise TypeError for one picture where several are taken: its letters, bytes or rows are none.

    A stack of pictures, (N, H, W, 3) or (N, 3, H, W), is several.
    """
    one = isinstance(images, str | bytes | bytearray | os.PathLike | Picture | Image.Image)
    if one or not isinstance(images, Iterable) or getattr(images, "ndim", 4) < 4:
        raise TypeError(
            f"images must be several pictures, as in a list, not one {type(images).__name__}; "
            "for one picture use encode or locate"
        )


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
        localizer = Localizer(encoder, options)
        chosen = list(islice(pictures, CALIBRATION_PICTURES))
        each = -(-CALIBRATION_CROPS // max(1, len(chosen)))
        kept: list[torch.Tensor] = []
        for picture in localizer._readable(chosen, lambda source, error: None):
            of_picture = list(localizer._crops([picture], deque()))
            kept += of_picture[:: max(1, len(of_picture) // each)][:each]
        return torch.stack(kept) if kept else torch.empty(0)

    return Calibration(crops, identity)


def _as_prompts(prompts: str | Prompt | Sequence[str | Prompt]) -> list[Prompt]:
    """Raises ValueError when there are none, TypeError for what is neither text nor a Prompt."""
    if not isinstance(prompts, str | Prompt | Iterable):
        raise TypeError(f"prompts must be texts or Prompts, not {type(prompts).__name__}")
    asked = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    if not asked:
        raise ValueError("prompts must not be empty; say in words what to look for")
    return [as_prompt(prompt) for prompt in asked]
