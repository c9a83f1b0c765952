"""Measure the embedded model on crops and phrases that training never saw.

    python training/check_emoji.py --json training/records/emoji-check.json

Prints and writes: top-1 of whole crops by name and by held-out phrasings, accuracy of tokens, and
how far words that the model does not know stay from every name, and from every picture.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import phrases
import torch
import torch.nn.functional as F
from crops import Batch, Painter, stack
from tower import to_pixels

from localize.encoders import Encoder, load_encoder
from localize.evaluation.unknown import unknown_words

SEED = 77_000_001  # far from the seed of training
UNKNOWN_BATCHES = 10  # of 50 crops, that are asked for unknown words


def crop_figures(
    model: Encoder, names: torch.Tensor, asked: torch.Tensor, batch: Batch
) -> np.ndarray:
    """Hits and tries, (7, 2), rows as in ``main``. ``names`` (N + 1, D), last is background."""
    pooled, tokens = model.encode_crops(to_pixels(batch.images))
    assert tokens is not None
    area = batch.cells.mean((2, 3))
    clear = (batch.visible >= 0.5) & (batch.objects >= 0)
    area = torch.where(clear, area, torch.zeros_like(area))
    main = batch.objects.gather(1, area.argmax(1, keepdim=True))[:, 0]
    there = clear.any(1)
    single = there & ((batch.cells.flatten(2).sum(2) > 0).sum(1) == 1)
    # One object in full view that takes a tenth of the crop and twice as much as any other.
    two = batch.cells.mean((2, 3)).topk(2, dim=1).values
    whole = batch.visible.gather(1, area.argmax(1, keepdim=True))[:, 0] >= 0.9
    outstanding = there & whole & (area.amax(1) == two[:, 0])
    outstanding &= (two[:, 0] >= 0.1) & (two[:, 0] >= 2 * two[:, 1])
    scores = pooled @ names[:-1].T
    top = scores.argmax(1)
    shown = ((batch.objects == top[:, None]) & clear).any(1)
    # The held-out phrasing of the main object against the names of all others.
    own = main.clamp(min=0)
    phrased = (pooled * asked[own]).sum(1) > scores.scatter(1, own[:, None], -1).amax(1)
    rows = [(shown & there, there)]
    for right in (top == main, phrased):
        rows += [(right & outstanding, outstanding), (right & single, single)]
    best = (tokens @ names.T).argmax(-1)
    share, slot = batch.cells.max(1)
    owner = batch.objects.gather(1, slot.flatten(1)).reshape(slot.shape)
    solid = (share >= 0.75) & clear.gather(1, slot.flatten(1)).reshape(slot.shape)
    bare = batch.cells.sum(1) == 0
    rows += [((best == owner) & solid, solid), ((best == len(names) - 1) & bare, bare)]
    return np.array([[hit.sum().item(), of.sum().item()] for hit, of in rows])


def text_figures(model: Encoder, names: torch.Tensor) -> dict[str, float]:
    """Held-out phrasings of all words among all names, and the nearest name of unknown words."""
    rng = np.random.default_rng(SEED)
    texts, labels = [], []
    for number, words in enumerate(phrases.names()):
        for word in words:
            texts.append(phrases.fill(str(rng.choice(phrases.HELD_OUT)), word, rng, invent=False))
            labels.append(number)
    similar = model.encode_prompts(texts) @ names.T
    right = similar.argmax(1) == torch.tensor(labels)
    figures = {"held_out_phrases_top1": right.float().mean().item()}
    seen, unseen = phrases.others()
    kinds = {"other_words": seen, "unseen_words": unseen, "unknown_words": unknown_words()}
    for key, others in kinds.items():
        near = (model.encode_prompts([f"a {word}" for word in others]) @ names.T).amax(1)
        figures[f"{key}_mistaken"] = (near > 0.5).float().mean().item()
    return figures


def unknown_figures(
    model: Encoder, names: torch.Tensor, pictures: list[list[torch.Tensor]]
) -> dict[str, float]:
    """Where unknown words lie beside pictures (each (B, ..., D)) and the bank (N + 1, D)."""
    unknown = model.encode_prompts([f"a {word}" for word in unknown_words()])
    typical = model.encode_prompts(["zxqvy"])[0]
    figures: dict[str, float] = {}
    for kind, embeddings in zip(("crops", "tokens"), map(torch.cat, pictures), strict=True):
        each = embeddings.flatten(0, -2)
        bank = (model.logit_scale * each @ names.T).logsumexp(-1) / model.logit_scale
        cosines = each @ unknown.T
        chance = torch.sigmoid(model.logit_scale * (cosines - bank[:, None]))
        figures |= {
            f"unknown_words_above_.1_in_{kind}": (chance >= 0.1).float().mean().item(),
            f"highest_cosine_of_zxqvy_in_{kind}": (each @ typical).max().item(),
            f"lowest_logsumexp_of_the_bank_in_{kind}": bank.min().item(),
            f"cosine_with_the_mean_of_names_in_{kind}": F.cosine_similarity(
                each, names[:-1].mean(0), dim=-1
            )
            .mean()
            .item(),
        }
    return figures


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="localize/encoders/emoji")
    parser.add_argument("--crops", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = load_encoder(arguments.model, dtype="float32")
    names = [words[0] for words in phrases.names()]
    vectors = model.encode_prompts([*names, *phrases.NEGATIVE_BACKGROUNDS])
    rng = np.random.default_rng(SEED)
    held_out = [
        phrases.fill(str(rng.choice(phrases.HELD_OUT)), str(rng.choice(words)), rng, invent=False)
        for words in phrases.names()
    ]
    asked = model.encode_prompts(held_out)
    painter = Painter(SEED)
    hits = np.zeros((7, 2))
    crops: list[torch.Tensor] = []
    cells: list[torch.Tensor] = []
    for number in range(arguments.crops // 50):
        batch = stack([painter.crop(rng, model.image_size) for _ in range(50)])
        hits += crop_figures(model, vectors, asked, batch)
        if number < UNKNOWN_BATCHES:
            pooled, tokens = model.encode_crops(to_pixels(batch.images))
            assert tokens is not None
            crops.append(pooled)
            cells.append(tokens)
    keys = (
        "top1_is_in_the_crop",
        "top1_of_crops_with_a_main_object",
        "top1_of_crops_with_one_object",
        "held_out_phrasing_of_crops_with_a_main_object",
        "held_out_phrasing_of_crops_with_one_object",
        "tokens_on_objects",
        "tokens_on_background",
    )
    figures = {key: float(hit / max(of, 1)) for key, (hit, of) in zip(keys, hits, strict=True)}
    figures |= text_figures(model, vectors[:-1])
    figures |= unknown_figures(model, vectors, [crops, cells])
    figures["crops"] = arguments.crops
    figures["crops_with_a_main_object"] = hits[1, 1]
    for key, value in figures.items():
        print(f"{key:45} {value:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
