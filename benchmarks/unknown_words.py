"""How sure a model is of words that it cannot know, and what it draws for them.

    python benchmarks/unknown_words.py --scenes 100 --seed 50000
    python benchmarks/unknown_words.py --data photos

Asks every picture for 200 words of the list of unknown words, and prints the quantiles of their
presence and the boxes that a user sees, a prompt, by kind of word.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from material import add_material, material
from tqdm import tqdm

from localize import Localizer
from localize.evaluation.samples import Sample
from localize.evaluation.unknown import some_unknown

WORDS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--words", nargs="+", help="ask for these instead")
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="words to name")
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    words = parsed.words or some_unknown(WORDS, parsed.seed)
    presence, boxes = ask(Localizer(encoder), samples, words)
    print(f"{len(words)} words on {len(samples)} pictures")
    for name, share in (("median", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("highest", 1.0)):
        print(f"presence, {name:8} {np.quantile(presence, share):.4f}")
    print(f"boxes a prompt     {boxes.mean():.4f}")
    print(f"median by word, highest {np.median(presence, 0).max():.4f}")
    for number in np.argsort(-boxes.mean(0))[: parsed.worst]:
        mean, often = np.median(presence[:, number]), boxes[:, number].mean()
        print(f"  {words[number]:20} presence {mean:.3f}  boxes {often:.2f}")


def ask(
    localizer: Localizer, samples: Sequence[Sample], words: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Presence and number of reported boxes, both (pictures, words)."""
    presence, boxes = [], []
    for sample in tqdm(samples):
        result = localizer.locate(sample.image, words)
        labels = [box.label for box in result.boxes]
        presence.append(result.presence)
        boxes.append([labels.count(word) for word in words])
    return np.array(presence), np.array(boxes)


if __name__ == "__main__":
    main()
