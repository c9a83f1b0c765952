"""The text side: a tokenizer of whole words, and training the text tower onto frozen prototypes.

Knows phrases and torch; knows nothing of images. The image side is locked and the text side learns
to meet it, as in LiT (Zhai et al. 2022, arXiv 2111.07991).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import phrases
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST = 32
BATCH = 256
PART = 64


def make_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over all words that training uses, plus single letters for any other word."""
    rng = np.random.default_rng(0)
    nouns = [word for words in phrases.names() for word in words] + phrases.others()[0]
    texts = [*nouns, *map(phrases.plural, nouns), *phrases.BACKGROUND, *phrases.ADJECTIVES]
    texts += [phrases.fill(t, "cat", rng) for t in phrases.TEMPLATES + phrases.HELD_OUT]
    texts += [" ".join(phrases.FILLERS), "an"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {
        piece
        for text in texts
        for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    entries = dict.fromkeys([*SPECIAL, *letters, *("##" + c for c in letters), *sorted(words)])
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    ends = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LONGEST,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


class Sampler:
    """Draws labelled phrases. Labels: concept number, then background, then "not known"."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.names = phrases.names()
        self.others, _ = phrases.others()
        self.owner = {word: i for i, words in enumerate(self.names) for word in words}
        self.words = sorted(self.owner)
        self.known = set(self.words) | set(map(phrases.plural, self.words))

    def draw(self) -> tuple[str, int]:
        kind = self.rng.random()
        usual = self.rng.random() < 0.75
        template = phrases.pick(self.rng, phrases.TEMPLATES) if usual else phrases.frame(self.rng)
        if kind < 0.03:
            return phrases.pick(self.rng, phrases.BACKGROUND), len(self.names)
        if kind < 0.70:
            number = int(self.rng.integers(len(self.names)))
            words = self.names[number]
            first = self.rng.random() < 0.3
            word = words[0] if first else phrases.pick(self.rng, words)
            return self._of(template, word, number), number
        word = self._unknown(kind)
        return phrases.fill(template, word, self.rng), len(self.names) + 1

    def _of(self, template: str, word: str, number: int) -> str:
        """A phrase of a concept that names no other one by accident ("a hot dog", of a dog)."""
        for _ in range(20):
            text = phrases.fill(template, word, self.rng)
            parts = text.split()
            pairs = (f"{one} {two}" for one, two in pairwise(parts))
            if all(self.owner.get(pair, number) == number for pair in pairs):
                return text
        return word

    def _unknown(self, kind: float) -> str:
        if kind < 0.88:
            return phrases.pick(self.rng, self.others)
        while True:
            word = phrases.nonsense(self.rng, self.words)
            if word and word not in self.known:
                return word


def train_text(model: Any, prototypes: torch.Tensor, steps: int, seed: int) -> dict[str, Any]:
    """Train the text tower and projection of ``model``, in place; returns the record.

    ``prototypes`` (names + 1, D): the last is background. Words that the model does not know all go
    to one more direction, away from the background and from the mean of the names, where no image
    is. Loss: cross-entropy of scaled cosines over all prototypes plus the distance to the right
    one.
    """
    torch.manual_seed(seed)
    names = F.normalize(prototypes.detach().float(), dim=-1)
    nowhere = F.normalize(-names[-1] - F.normalize(names[:-1].mean(0), dim=-1), dim=-1)
    targets = torch.cat([names, nowhere[None]])
    tokenizer = make_tokenizer()
    sampler = Sampler(seed)
    optimizers, weights = _optimizers(model)
    scale = float(model.logit_scale.detach().exp())
    start, curve = time.monotonic(), []
    model.text_model.train()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 100) * (1 - step / steps)
        for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
            group["lr"] = group["peak"] * factor
        # Shortest first, so that a few long phrases do not make padding of all others.
        drawn = sorted((sampler.draw() for _ in range(BATCH)), key=lambda pair: len(pair[0]))
        texts, labels = zip(*drawn, strict=True)
        raw = [_features(model, tokenizer, texts[i : i + PART]) for i in range(0, BATCH, PART)]
        cosines = F.normalize(torch.cat(raw), dim=-1) @ targets.T
        answer = torch.tensor(labels)
        right = cosines[torch.arange(len(answer)), answer]
        loss = F.cross_entropy(scale * cosines, answer) + 20 * (1 - right).mean()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 100 == 0:
            row = {"step": step + 1, "loss": loss.item(), "cosine": right.mean().item()}
            row["seconds"] = time.monotonic() - start
            curve.append(row)
            print(
                f"text {step + 1}  loss {row['loss']:.3f}  cosine {row['cosine']:.3f}", flush=True
            )
    model.eval()
    return {"phrases": steps * BATCH, "seconds": time.monotonic() - start, "curve": curve}


def _optimizers(model: Any) -> tuple[list[torch.optim.Optimizer], list[torch.nn.Parameter]]:
    """Muon for the matrices and AdamW for the rest; words move fast, as each is seen seldom."""
    named = [(n, p) for n, p in model.named_parameters() if n.startswith("text_")]
    words = [p for n, p in named if "word_embeddings" in n]
    matrices = [p for n, p in named if p.ndim == 2 and "embeddings" not in n]
    taken = {id(p) for p in (*words, *matrices)}
    rest = [p for _, p in named if id(p) not in taken]
    muon = {"params": matrices, "peak": 2e-3}
    adam = [{"params": words, "peak": 1e-2}, {"params": rest, "peak": 2e-3}]
    optimizers = [
        torch.optim.Muon([muon], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(adam, weight_decay=0.0),
    ]
    return optimizers, [p for _, p in named]


def _features(model: Any, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Projected float32 features (P, D) of texts, through a bfloat16 forward."""
    inputs = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.autocast("cpu", torch.bfloat16):
        return model.get_text_features(**inputs).pooler_output.float()
