"""Does a negative that says nothing keep away texts that fit everything? For any encoder.

    python benchmarks/guards.py --scenes 50 --seed 50000
    python benchmarks/guards.py --data photos --encoder photo_encoder:PhotoEncoder
    python benchmarks/guards.py --scenes 12 --random vit-b-32

Three guards beside the bank, each a negative that always counts: a made-up word, the mean embedding
of unlike pictures (twenty of those asked), and the mean embedding of the picture that is asked.
Prints what they leave of the figures for known names, and what is drawn for unknown words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from material import add_material, material
from tqdm import tqdm

from localize import Localizer, Options
from localize.bench import SIZES, random_checkpoint
from localize.encoders import HuggingFaceEncoder
from localize.evaluation.evaluate import answer_of, figures
from localize.evaluation.samples import Answer, Sample
from localize.evaluation.unknown import some_unknown

WORDS = 50
NONSENSE, UNLIKE, OWN = "flurbazoid", "<mean of unlike pictures>", "<mean of the picture>"
GUARDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "a made-up word": (NONSENSE,),
    "mean of unlike pictures": (UNLIKE,),
    "mean of the picture": (OWN,),
}
SHOWN = ("AP50", "AP30", "presence_auc", "false_boxes_per_absent_prompt")
UNKNOWN = ("presence_of_unknown_prompts", "false_boxes_per_unknown_prompt")


class WithMeans:
    """An encoder that also takes the names of two means for texts."""

    def __init__(self, encoder: Any):
        self.encoder = encoder
        self.means: dict[str, torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)

    def encode_prompts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.stack(
            [
                self.means[text] if text in self.means else self.encoder.encode_prompts([text])[0]
                for text in texts
            ]
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--random", choices=SIZES, help="a CLIP of random weights, for --model")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    if parsed.random:
        encoder = HuggingFaceEncoder(random_checkpoint(parsed.random))
    words = unknown_words(encoder, parsed.seed)
    with_means = WithMeans(encoder)
    plain = Localizer(with_means)
    pictures = (sample.image for sample in samples[:20])
    embeddings = torch.cat([each.embeddings for each in plain.encode_many(pictures)])
    with_means.means[UNLIKE] = F.normalize(embeddings.mean(0), dim=0)
    ranked: dict[str, list[Answer]] = {guard: [] for guard in GUARDS}
    reported: dict[str, list[Answer]] = {guard: [] for guard in GUARDS}
    truths = []
    for sample in tqdm(samples):
        encoded = plain.encode(sample.image)
        with_means.means[OWN] = F.normalize(encoded.embeddings.mean(0), dim=0)
        truth = asked(sample, words)
        truths.append(truth)
        for guard, negatives in GUARDS.items():
            if words or guard != "a made-up word":
                for answers, options in ((ranked, Options(threshold=0)), (reported, Options())):
                    machine = Localizer(with_means, replace(options, negatives=negatives))
                    result = machine.locate(encoded, truth.prompts)
                    answers[guard].append(answer_of(result, encoded.num_crops))
    print("guard", *SHOWN, *UNKNOWN, sep=" | ")
    for guard, row in ranked.items():
        if row:
            found = figures(truths, row, reported[guard])
            cells = [found[key] for key in (*SHOWN, *UNKNOWN)]
            print(guard, *("-" if c is None else f"{c:.3f}" for c in cells), sep=" | ")


def unknown_words(encoder: Any, seed: int) -> tuple[str, ...]:
    """Unknown words, or none where the encoder is a table of names."""
    words = some_unknown(WORDS, seed)
    try:
        encoder.encode_prompts(words)
    except KeyError:
        return ()
    return words


def asked(sample: Sample, words: tuple[str, ...]) -> Any:
    """The truth of a sample, asked for its names and for these words."""
    names = tuple(name for name in sample.truth.prompts if name not in sample.truth.unknown)
    return replace(sample.truth, prompts=(*names, *words), unknown=words)


if __name__ == "__main__":
    main()
