"""Texts -> embeddings, each text through the text tower only once.

Knows how a text tower is run and what is remembered of it; must not know a library's models.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from localize.encoders.errors import CheckpointError
from localize.encoders.text_cache import TextCache

TEXT_BATCH = 256


@dataclass(frozen=True)
class TextTower:
    """A text tower and its tokenizer."""

    tokenize: Callable[[list[str]], tuple[list[list[int]], list[str]]]
    """Texts -> the ids of each, none more than `max_length`, and the texts that were cut."""
    embed: Callable[[torch.Tensor], torch.Tensor]  # int64 (P, L), CPU -> (P, D), any length
    max_length: int
    vocabulary: int  # ids that the tower knows


class Texts:
    """Embeds texts of one model, from memory and the user's cache where they are known."""

    def __init__(self, name: str, identity: str, tower: Callable[[], TextTower]) -> None:
        """
        name: of the model, for messages.
        identity: changes with the embeddings; they are remembered under it.
        tower: asked for each time that a text is not known.
        """
        self._name = name
        self._cache = TextCache(identity)
        self._tower = tower
        self._said_truncated = False

    def embed(self, texts: list[str]) -> torch.Tensor:
        """Embed P texts as unit-norm float32 vectors (P, D) on the CPU.

        A text that is too long is cut, with one warning for the first.
        """
        if not texts:
            return self.embed([""])[:0]
        # Command lines hand over bytes that are no valid text as lone surrogates.
        texts = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        found = self._cache.get(texts)
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        if missing:
            new = dict(zip(missing, self._embed_new(missing, self._tower()), strict=True))
            self._cache.add(new)
            found |= new
        return torch.stack([found[text] for text in texts])

    def _embed_new(self, texts: list[str], tower: TextTower) -> torch.Tensor:
        """Encode P texts to unit-norm (P, D), in batches of one length: nothing is padded."""
        rows = self._tokenize(texts, tower)
        order = sorted(range(len(texts)), key=lambda i: len(rows[i]))
        result: dict[int, torch.Tensor] = {}
        while order:
            length = len(rows[order[0]])
            batch = [i for i in order[:TEXT_BATCH] if len(rows[i]) == length]
            order = order[len(batch) :]
            with torch.inference_mode():
                embeddings = tower.embed(torch.tensor([rows[i] for i in batch]))
            unit = F.normalize(embeddings.float(), dim=-1).cpu()
            result |= zip(batch, unit, strict=True)
        return torch.stack([result[i] for i in range(len(texts))])

    def _tokenize(self, texts: list[str], tower: TextTower) -> list[list[int]]:
        """Token ids of each text, none longer than the text tower takes."""
        rows, cut = tower.tokenize(texts)
        if cut and not self._said_truncated:
            self._said_truncated = True
            shown = cut[0] if len(cut[0]) <= 60 else cut[0][:57] + "..."
            warnings.warn(
                f"prompts over {tower.max_length} tokens are cut, the first is {shown!r}",
                stacklevel=5,
            )
        if max(max(row) for row in rows) >= tower.vocabulary:
            raise CheckpointError(
                f"the tokenizer in {self._name} is not of the same model as the weights"
            )
        return rows
