"""The two verbs: `encode`, which costs, and `locate`, which does not.

Puts the parts together; knows no file formats and does no arithmetic of its own.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from localize.boxes import find_boxes, threshold_boxes
from localize.content import content
from localize.crops import batches, crops_of
from localize.edges import Superpixels, follow_edges, superpixels
from localize.encoders import check_crop_embeddings, load_encoder
from localize.encoders.checks import as_pair, check_encoder, check_same_length
from localize.encoders.device import choose_batch_size
from localize.encoders.protocol import Encoder
from localize.images import ImageError, ImageSource, Picture, read_ahead
from localize.options import Options
from localize.prompts import BANK, Prompt, PromptEmbedder, as_prompt
from localize.relevance import (
    distinctness,
    map_size,
    presences,
    probabilities,
    relevance_maps,
    rivals,
    synonym_limit,
)
from localize.result import Box, Localization
from localize.windows import Grid, make_grids, within_budget

PROMPTS_AT_ONCE = 256
"""Prompts that are scored together: with the tokens of 60 windows they take some 100 MB."""

OnError: TypeAlias = Callable[[ImageSource, ImageError], None]
Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """A picture whose windows have been through the image encoder, ready to be asked.

    picture: the upright picture and where it came from.
    grids: the windows, scale by scale.
    embeddings: float32 (N, D), unit-norm, one a window, in the order of the grids.
    tokens: float32 (N, h, w, D), unit-norm, of the cells of each window, or None.
    """

    picture: Picture
    grids: tuple[Grid, ...]
    embeddings: torch.Tensor
    tokens: torch.Tensor | None

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
    def num_crops(self) -> int:
        """How many crops went through the image encoder."""
        return len(self.embeddings)

    @cached_property
    def superpixels(self) -> tuple[Superpixels, ...]:
        """The segmentations that maps follow, of the maps' size; made when first asked for."""
        height, width = self.picture.pixels.shape[:2]
        return superpixels(self.picture.pixels, map_size(width, height))


class Localizer:
    """Finds things in pictures by words, with any encoder of the `Encoder` protocol.

    >>> localizer = Localizer.from_pretrained("emoji")
    >>> result = localizer.locate("photo.jpg", ["a cat", "a butterfly"])
    >>> result.boxes, result.presence
    """

    def __init__(self, encoder: Encoder, options: Options = Options()):  # noqa: B008
        check_encoder(encoder)
        self.encoder = encoder
        self.options = options
        self.batch_size = options.batch_size or choose_batch_size(self._device)
        self._embed = PromptEmbedder(encoder)
        bank = getattr(encoder, "negatives", None) or BANK
        self._bank = [as_prompt(word) for word in bank]

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool = False,
        unpickle: bool = False,
        options: Options = Options(),  # noqa: B008
    ) -> Localizer:
        """Load a checkpoint: a Hugging Face hub id[@revision], a local folder, or "emoji".

        device: "auto", "cpu", "cuda", "mps", ... dtype: "auto", "float32", "bfloat16", "float16".
        compile: compile the image encoder first; see `HuggingFaceEncoder`.
        unpickle: open weights that exist only as a pickle, with torch's weights-only unpickler.
        Raises encoders.CheckpointError, in one sentence, when it cannot be loaded.
        """
        encoder = load_encoder(
            model, device=device, dtype=dtype, compile=compile, unpickle=unpickle
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

    def encode(self, image: ImageSource) -> Encoded:
        """Put every window of a picture through the image encoder. Depends on no prompt.

        image: a path, bytes, a PIL image or an array; see `images.read_image`.
        """
        return next(self.encode_many([image]))

    def encode_many(
        self, images: Iterable[ImageSource], on_error: OnError | None = None
    ) -> Iterator[Encoded]:
        """Encode pictures in their order, streamed.

        Pictures are read ahead in threads, and batches are filled across pictures.
        on_error: called with each source that cannot be read, and why; it is then left out.
            Without it the ImageError is raised.
        """
        waiting: deque[tuple[Picture, tuple[Grid, ...]]] = deque()
        crops = self._crops(_readable(images, self.options.max_pixels, on_error), waiting)
        embeddings: list[torch.Tensor] = []
        tokens: list[torch.Tensor] = []
        for batch in batches(crops, self.batch_size):
            batch_embeddings, batch_tokens = self._encode_batch(batch)
            embeddings.extend(batch_embeddings)
            tokens.extend(() if batch_tokens is None else batch_tokens)
            if tokens and len(tokens) != len(embeddings):
                method = f"{type(self.encoder).__name__}.encode_crops"
                raise ValueError(f"{method} returned tokens for some batches and not for others")
            while waiting and len(embeddings) >= (count := sum(map(len, waiting[0][1]))):
                yield Encoded(
                    *waiting.popleft(),
                    torch.stack(embeddings[:count]),
                    torch.stack(tokens[:count]) if tokens else None,
                )
                del embeddings[:count], tokens[:count]

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
        presence, maps, plain = self._relevance(encoded, self._embed(asked))
        return Localization(
            pixels=encoded.picture.pixels,
            file=encoded.picture.file,
            notes=encoded.picture.notes,
            model=self.model,
            prompts=tuple(prompt.label for prompt in asked),
            presence=presence,
            maps=maps,
            boxes=self._boxes(encoded.picture, asked, presence, maps, plain),
        )

    def locate_many(
        self,
        images: Iterable[ImageSource],
        prompts: str | Prompt | Sequence[str | Prompt],
        on_error: OnError | None = None,
    ) -> Iterator[Localization]:
        """`locate` for many pictures, streamed in their order; `on_error` as in `encode_many`."""
        for encoded in self.encode_many(images, on_error):
            yield self.locate(encoded, prompts)

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
        """The unit-norm embeddings of the prompts, float32 (P, D), templates averaged."""
        return self._embed(_as_prompts(prompts))

    def _crops(
        self,
        pictures: Iterable[Picture],
        waiting: deque[tuple[Picture, tuple[Grid, ...]]],
    ) -> Iterator[torch.Tensor]:
        """The crops of all pictures, one after the other; notes in `waiting` whose they are."""
        encoder, options = self.encoder, self.options
        for picture in pictures:
            height, width = picture.pixels.shape[:2]
            grids = make_grids(width, height, encoder.image_size, options.scales, options.stride)
            if options.budget is not None:
                grids = within_budget(grids, content(picture.pixels), options.budget)
            waiting.append((picture, grids))
            yield from crops_of(
                picture.pixels,
                grids,
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
        bank = self._embed(self._bank)
        own = [as_prompt(word) for word in self.options.negatives]
        return bank, self._embed(own) if own else bank[:0], synonym_limit(bank)

    def _relevance(
        self, encoded: Encoded, wanted: torch.Tensor
    ) -> tuple[Array, Array, dict[int, Array]]:
        """Presence (P,) and maps (P, h, w) of prompts (P, D), some at a time to bound memory.

        Tokens, distinctness and edges are worth their time only for what may be in the picture: the
        map of a prompt whose presence is below the threshold is that of its windows. The others'
        maps are also given as they are without distinctness, by the number of their prompt.
        """
        cells = encoded.embeddings[:, None, None] if encoded.tokens is None else encoded.tokens
        presence, maps, factors = [], [], []
        for part in wanted.split(PROMPTS_AT_ONCE):
            windows, tokens = self._scores(encoded, part)
            presence.append(presences(windows, tokens))
            maps.append(relevance_maps(encoded.grids, windows, None))
            here = np.flatnonzero(presence[-1] >= self.options.threshold)
            if not len(here):
                continue
            if tokens is not None:
                maps[-1][here] = relevance_maps(encoded.grids, windows[:, here], tokens[..., here])
            factors.append(distinctness(encoded.grids, cells @ part[here].T))
        all_presence, all_maps = np.concatenate(presence), np.concatenate(maps)
        here = np.flatnonzero(all_presence >= self.options.threshold)
        if not len(here):
            return all_presence, all_maps, {}
        both = np.concatenate([all_maps[here], all_maps[here] * np.concatenate(factors)])
        plain, all_maps[here] = np.split(follow_edges(both, encoded.superpixels), 2)
        return all_presence, all_maps, dict(zip(here.tolist(), plain, strict=True))

    def _scores(
        self, encoded: Encoded, wanted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """How much windows (N, P) and tokens (N, h, w, P), if any, look like prompts (P, D)."""
        bank, own, limit = self._negatives
        check_same_length(self.encoder, wanted, encoded.embeddings)
        negatives, against = torch.cat([bank, own]), rivals(wanted, bank, own, limit)
        scale, tokens = self.encoder.logit_scale, encoded.tokens
        scores = probabilities(encoded.embeddings, wanted, negatives, against, scale)
        if tokens is None:
            return scores, None
        token_scale = getattr(self.encoder, "token_scale", scale)
        return scores, probabilities(tokens, wanted, negatives, against, token_scale)

    def _boxes(
        self,
        picture: Picture,
        prompts: Sequence[Prompt],
        presence: Array,
        maps: Array,
        plain: dict[int, Array],
    ) -> list[Box]:
        """The boxes of all prompts, best first. None is surer than its prompt's presence."""
        first = picture.pixels[0]
        if (first == first[0]).all() and (picture.pixels == first).all():
            return []  # Nothing stands out of a picture of one colour.
        height, width = picture.pixels.shape[:2]
        map_width, map_height = map_size(width, height)
        to_picture = np.array([width / map_width, height / map_height] * 2)
        threshold = self.options.threshold
        found: dict[str, list[Box]] = {}
        for number, (prompt, sure) in enumerate(zip(prompts, presence.tolist(), strict=True)):
            # A prompt that is asked twice gets its boxes once.
            if sure < threshold or prompt.label in found:
                continue
            if self.options.boxes == "contrast":
                boxes = find_boxes(maps[number], threshold, plain[number])
            else:
                boxes = threshold_boxes(maps[number], threshold)
            found[prompt.label] = [
                Box(prompt.label, min(score, sure), tuple((np.array(xyxy) * to_picture).tolist()))
                for *xyxy, score in boxes.tolist()
            ]
        return sorted(chain.from_iterable(found.values()), key=lambda box: -box.score)


def _readable(
    images: Iterable[ImageSource], max_pixels: int, on_error: OnError | None
) -> Iterator[Picture]:
    """The pictures that can be read, in their order."""
    for source, picture in read_ahead(images, max_pixels):
        if isinstance(picture, Picture):
            yield picture
        elif on_error is None:
            raise picture
        else:
            on_error(source, picture)


def _as_prompts(prompts: str | Prompt | Sequence[str | Prompt]) -> list[Prompt]:
    """Raises ValueError when there are none, TypeError for what is neither text nor a Prompt."""
    if not isinstance(prompts, str | Prompt | Iterable):
        raise TypeError(f"prompts must be texts or Prompts, not {type(prompts).__name__}")
    asked = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    if not asked:
        raise ValueError("prompts must not be empty; say in words what to look for")
    return [as_prompt(prompt) for prompt in asked]
