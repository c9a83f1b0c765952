"""The text side: a tokenizer of whole words, and training the text tower onto frozen prototypes.

Knows phrases and torch; knows nothing of images. The image side is locked and the text side learns
to meet it, as in LiT (Zhai et al. 2022, arXiv 2111.07991).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import phrases
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEMPLATES = phrases.TEMPLATES
PUNCTUATION = Regex(r"\p{P}")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LONGEST = 32
BATCH = 256
PART = 64


def splitter() -> tuple[normalizers.Normalizer, pre_tokenizers.PreTokenizer]:
    """How a text becomes words: lower case, without accents and punctuation."""
    plain = [normalizers.BertNormalizer(lowercase=True), normalizers.Replace(PUNCTUATION, " ")]
    return normalizers.Sequence(plain), pre_tokenizers.WhitespaceSplit()


def split(text: str) -> list[str]:
    normalizer, splits = splitter()
    return [word for word, _ in splits.pre_tokenize_str(normalizer.normalize_str(text))]


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of names, templates, adjectives and of things that the model shall not know.

    Words of held-out templates are unheard of, as those of most phrasings of users are.
    """
    rng = np.random.default_rng(0)
    nouns = [word for words in phrases.names() for word in words] + phrases.others()[0]
    texts = [*nouns, *map(phrases.plural, nouns), *phrases.BACKGROUND, *phrases.ADJECTIVES]
    texts += [phrases.fill(t, "cat", rng, invent=False) for t in TEMPLATES]
    return tuple(
        sorted({word for text in (*texts, *phrases.FILLERS, "an") for word in split(text)})
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words; whatever is not in the vocabulary, in any script, is one and the same word."""
    numbers = {entry: number for number, entry in enumerate((*SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = splitter()
    ends = [(mark, numbers[mark]) for mark in ("[CLS]", "[SEP]")]
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
        self.owner |= {phrases.plural(word): i for word, i in self.owner.items()}
        self.words = sorted(self.owner)
        bare = {words[-1] for words in map(split, phrases.BACKGROUND) if len(words) <= 2}
        known = set(self.owner) | bare
        self.parts = [word for word in vocabulary() if word not in known]
        small = {*phrases.FILLERS, *phrases.ADJECTIVES, *(w for t in TEMPLATES for w in split(t))}
        self.heads = [word for word in self.others if word not in small]

    def draw(self) -> tuple[str, int]:
        kind = self.rng.random()
        if kind < 0.03:
            return phrases.pick(self.rng, phrases.BACKGROUND), len(self.names)
        if kind < 0.70:
            number = int(self.rng.integers(len(self.names)))
            words = self.names[number]
            first = self.rng.random() < 0.3
            return self._of(words[0] if first else phrases.pick(self.rng, words), number), number
        if kind < 0.72:
            return self._chatter(), len(self.names) + 1
        return self._of(self._unknown(kind), None), len(self.names) + 1

    def _of(self, word: str, number: int | None) -> str:
        """A phrase of a word that names no other concept by accident ("a hot dog", of a dog)."""
        for _ in range(20):
            usual = self.rng.random() < 0.75
            template = phrases.pick(self.rng, TEMPLATES) if usual else phrases.frame(self.rng)
            text = phrases.fill(template, word, self.rng)
            parts = split(text)
            pairs = (f"{one} {two}" for one, two in pairwise(parts))
            if all(self.owner.get(pair, number) == number for pair in pairs):
                return text
        return word

    def _unknown(self, kind: float) -> str:
        """A word that names nothing the model knows, even where it holds a known one."""
        if kind < 0.84:
            return phrases.pick(self.rng, self.others)
        if kind < 0.89:
            return phrases.pick(self.rng, self.parts)
        if kind < 0.95:
            return phrases.UNHEARD
        # The last word says what a thing is: a cat flap is no cat.
        first = phrases.pick(self.rng, self.words if kind < 0.98 else self.parts)
        heard = self.rng.random() < 0.5
        return f"{first} {phrases.pick(self.rng, self.heads) if heard else phrases.UNHEARD}"

    def _chatter(self) -> str:
        """Words in which nothing is named, or no word at all."""
        count = int(self.rng.integers(0, 6))
        pools = (phrases.FILLERS, phrases.ADJECTIVES, self.parts, (phrases.UNHEARD,))
        words = [phrases.pick(self.rng, pools[int(self.rng.integers(4))]) for _ in range(count)]
        text = " ".join(words)
        spans = (" ".join(words[i:j]) for j in range(count + 1) for i in range(j))
        return phrases.UNHEARD if any(span in self.owner for span in spans) else text


def train_text(model: Any, prototypes: torch.Tensor, steps: int, seed: int) -> dict[str, Any]:
    """Train the text tower and projection of ``model``, in place; returns the record.

    ``prototypes`` (names + 1, D): the last is background. Words that the model does not know all go
    to one more direction, `nowhere`. Loss: cross-entropy of scaled cosines over all prototypes plus
    the distance to the right one.
    """
    torch.manual_seed(seed)
    names = F.normalize(prototypes.detach().float(), dim=-1)
    targets = torch.cat([names, nowhere(names)[None]])
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


def nowhere(names: torch.Tensor) -> torch.Tensor:
    """The direction (D,) where no image is: from the background towards the mean of the names.

    names: unit-norm (names + 1, D), the last is background. The softmax of stage 1 pushes every
    image away from all names but those in it, that is away from their mean, and what holds none of
    them towards the background. Both are far from here. The opposite of the mean is no such place:
    there lie all images in which no name stands out.
    """
    return F.normalize(F.normalize(names[:-1].mean(0), dim=-1) - names[-1], dim=-1)


@torch.no_grad()
def prototypes_of(model: Any, tokenizer: Any) -> torch.Tensor:
    """The prototypes (names + 1, D) that the text side of a finished model was trained onto.

    They are not kept; the mean of a name in all templates comes close to its own.
    """
    rng = np.random.default_rng(0)
    groups = [
        [phrases.fill(each, words[0], rng, invent=False) for each in dict.fromkeys(TEMPLATES)]
        for words in phrases.names()
    ]
    means = []
    for texts in (*groups, phrases.BACKGROUND):
        features = F.normalize(_features(model, tokenizer, texts), dim=-1)
        means.append(F.normalize(features.mean(0), dim=-1))
    return torch.stack(means)


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
