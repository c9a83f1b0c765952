"""The two verbs: `encode`, which costs, and `locate`, which does not.

Puts the parts together; knows no file formats and does no arithmetic of its own.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from localize.boxes import find_boxes
from localize.crops import batches, crops_of
from localize.encoders import load_encoder
from localize.encoders.protocol import Encoder
from localize.io import ImageSource, Picture, read_image
from localize.options import Options
from localize.prompts import BANK, Prompt, PromptEmbedder, as_prompt
from localize.relevance import map_size, presences, probabilities, relevance_maps
from localize.result import Box, Localization
from localize.windows import Grid, make_grids


@dataclass(frozen=True, eq=False)
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

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """The windows as xyxy in pixels of the picture, float32 (N, 4). The first is the whole."""
        return np.concatenate([grid.boxes for grid in self.grids])

    @property
    def num_crops(self) -> int:
        """How many crops went through the image encoder."""
        return len(self.embeddings)


class Localizer:
    """Finds things in pictures by words, with any encoder of the `Encoder` protocol.

    >>> localizer = Localizer.from_pretrained("emoji")
    >>> result = localizer.locate("photo.jpg", ["a cat", "a butterfly"])
    >>> result.boxes, result.presence
    """

    def __init__(self, encoder: Encoder, options: Options = Options()):  # noqa: B008
        self.encoder = encoder
        self.options = options
        self._embed = PromptEmbedder(encoder)
        bank = getattr(encoder, "negatives", None) or BANK
        self._negatives = [as_prompt(word) for word in (*bank, *options.negatives)]

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        options: Options = Options(),  # noqa: B008
    ) -> Localizer:
        """Load a checkpoint: a Hugging Face hub id, a local folder, or "emoji".

        device: "auto", "cpu", "cuda", "mps", ... dtype: "auto", "float32", "bfloat16", "float16".
        Raises encoders.CheckpointError, in one sentence, when it cannot be loaded.
        """
        return cls(load_encoder(model, device=device, dtype=dtype), options)

    @property
    def model(self) -> str:
        """The name of the encoder, as results show it."""
        return str(getattr(self.encoder, "name", type(self.encoder).__name__))

    def encode(self, image: ImageSource) -> Encoded:
        """Put every window of a picture through the image encoder. Depends on no prompt.

        image: a path, bytes, a PIL image or an array; see `io.read_image`.
        """
        return next(self.encode_many([image]))

    def encode_many(self, images: Iterable[ImageSource]) -> Iterator[Encoded]:
        """Encode pictures in their order; batches are filled across pictures."""
        waiting: deque[tuple[Picture, tuple[Grid, ...]]] = deque()
        crops = self._crops(images, waiting)
        embeddings: list[torch.Tensor] = []
        tokens: list[torch.Tensor] = []
        for batch in batches(crops, self.options.batch_size):
            batch_embeddings, batch_tokens = self._encode_batch(batch)
            embeddings.extend(batch_embeddings)
            if batch_tokens is not None:
                tokens.extend(batch_tokens)
            while waiting and len(embeddings) >= sum(map(len, waiting[0][1])):
                picture, grids = waiting.popleft()
                count = sum(map(len, grids))
                yield Encoded(
                    picture,
                    grids,
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
        wanted, negatives = self._embed(asked), self._embed(self._negatives)
        scale = self.encoder.logit_scale
        scores = probabilities(encoded.embeddings, wanted, negatives, scale)
        tokens = encoded.tokens
        token_scores = None if tokens is None else probabilities(tokens, wanted, negatives, scale)
        maps = relevance_maps(encoded.grids, scores, token_scores)
        presence = presences(scores)
        return Localization(
            pixels=encoded.picture.pixels,
            file=encoded.picture.file,
            model=self.model,
            prompts=tuple(prompt.label for prompt in asked),
            presence=presence,
            maps=maps,
            boxes=self._boxes(encoded.picture, asked, maps),
        )

    def locate_many(
        self, images: Iterable[ImageSource], prompts: str | Prompt | Sequence[str | Prompt]
    ) -> Iterator[Localization]:
        """`locate` for many pictures, streamed in their order."""
        for encoded in self.encode_many(images):
            yield self.locate(encoded, prompts)

    def classify(
        self, image: ImageSource | Encoded, prompts: str | Prompt | Sequence[str | Prompt]
    ) -> npt.NDArray[np.float32]:
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
        images: Iterable[ImageSource],
        waiting: deque[tuple[Picture, tuple[Grid, ...]]],
    ) -> Iterator[torch.Tensor]:
        """The crops of all images, one after the other; notes in `waiting` whose they are."""
        encoder, options = self.encoder, self.options
        for image in images:
            picture = image if isinstance(image, Picture) else read_image(image)
            height, width = picture.pixels.shape[:2]
            grids = make_grids(width, height, encoder.image_size, options.scales, options.stride)
            waiting.append((picture, grids))
            yield from crops_of(
                picture.pixels,
                grids,
                encoder.mean,
                encoder.std,
                getattr(encoder, "interpolation", "bicubic"),
                getattr(encoder, "device", torch.device("cpu")),
            )

    def _encode_batch(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.inference_mode():
            embeddings, tokens = self.encoder.encode_crops(batch)
        return embeddings.float().cpu(), None if tokens is None else tokens.float().cpu()

    def _boxes(
        self, picture: Picture, prompts: Sequence[Prompt], maps: npt.NDArray[np.float32]
    ) -> list[Box]:
        height, width = picture.pixels.shape[:2]
        map_width, map_height = map_size(width, height)
        to_picture = np.array([width / map_width, height / map_height] * 2)
        found = []
        for prompt, relevance in zip(prompts, maps, strict=True):
            for *xyxy, score in find_boxes(relevance).tolist():
                if score >= self.options.threshold:
                    left, top, right, bottom = (np.array(xyxy) * to_picture).tolist()
                    found.append(Box(prompt.label, score, (left, top, right, bottom)))
        return sorted(found, key=lambda box: -box.score)


def _as_prompts(prompts: str | Prompt | Sequence[str | Prompt]) -> list[Prompt]:
    """Raises ValueError when there are none."""
    asked = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    if not asked:
        raise ValueError("prompts must not be empty; say in words what to look for")
    return [as_prompt(prompt) for prompt in asked]
