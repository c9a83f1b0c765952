"""The two verbs: `encode`, which costs, and `locate`, which does not.

Puts the parts together; knows no file formats and does no arithmetic of its own.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from localize.boxes import contrast_of, enlarged, find_boxes
from localize.edges import follow_edges
from localize.encoders import load_encoder
from localize.encoders.checks import check_encoder, check_same_length
from localize.encoders.protocol import Encoder
from localize.encoding import Encoded, OnError, PictureEncoder, Prepared, Progress, calibration_of
from localize.images import ImageSource, Picture, until_error
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

PROMPTS_AT_ONCE = 128
"""The most prompts that are answered together: their maps take some 10 MB a copy."""

SCORES_AT_ONCE = 1 << 22
"""The most scores, of all windows' cells with the prompts answered together: 16 MB a copy."""

LOCATED_AHEAD = 1
"""Encoded pictures that wait, in `locate_many`, besides the one that is located."""

Array: TypeAlias = npt.NDArray[np.float32]


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
        self._encoding = PictureEncoder(encoder, options)
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
    def batch_size(self) -> int:
        """The most crops that go through the encoder at once."""
        return self._encoding.batch_size

    def encode(self, image: ImageSource, progress: Progress | None = None) -> Encoded:
        """Put every window of a picture through the image encoder. Depends on no prompt.

        image: a path, bytes, a PIL image or an array; see `images.read_image`.
        progress: called with how many windows are encoded and of how many, after each batch.
        """
        return next(self._encoding.encode_many([image], None, progress))

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
        return self._encoding.encode_many(images, on_error)

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
            for encoded in until_error(pictures, stopped):
                waiting.append(beside.submit(self.locate, encoded, asked))
                if len(waiting) > LOCATED_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        if stopped:
            raise stopped.pop()

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
            embedding = self._encoding.embed_whole(picture)
            bank, scale = self._negatives[0], self.encoder.logit_scale
            words, alone = in_words(embedding, bank, scale), torch.zeros(1, dtype=torch.int64)
            contest = self._contest(_Queries(words, alone, None, alone, (0.0,)))
            self._pictures[picture] = words[0], float(contest.scores(embedding, scale))
        return self._pictures[picture]

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


def _as_prompts(prompts: str | Prompt | Sequence[str | Prompt]) -> list[Prompt]:
    """Raises ValueError when there are none, TypeError for what is neither text nor a Prompt."""
    if not isinstance(prompts, str | Prompt | Iterable):
        raise TypeError(f"prompts must be texts or Prompts, not {type(prompts).__name__}")
    asked = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    if not asked:
        raise ValueError("prompts must not be empty; say in words what to look for")
    return [as_prompt(prompt) for prompt in asked]
