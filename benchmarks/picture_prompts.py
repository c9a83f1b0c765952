"""Pictures as prompts on scenes: a crop of one glyph, others of its kind among distractors.

    python benchmarks/picture_prompts.py --scenes 50 --seed 60000

Each scene is asked for its own names and for absent ones, once by words and once by a picture of
each: one of the thing's glyphs, tilted, on a background of its own, never the pixels of the scene.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from localize import Localizer, Options, Prompt
from localize.evaluation.evaluate import answer_of, figures, scene_samples
from localize.evaluation.samples import Sample
from localize.evaluation.scenes import concepts, make_background, place

SIDE, MARGIN = 150, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=60000, help="of the first scene")
    parser.add_argument("--model", default="emoji")
    parsed = parser.parse_args()
    rng = np.random.default_rng(parsed.seed)
    machine = Localizer.from_pretrained(parsed.model, options=Options(threshold=0.0))
    samples = [drawn(sample) for sample in scene_samples(parsed.scenes, parsed.seed)]
    answers: dict[str, list] = {"words": [], "pictures": []}
    for sample in samples:
        encoded = machine.encode(sample.image)
        asked = {
            "words": sample.truth.prompts,
            "pictures": [Prompt.from_image(crop(name, rng), name) for name in sample.truth.prompts],
        }
        for way, prompts in asked.items():
            answers[way].append(answer_of(machine.locate(encoded, prompts), encoded.num_crops))
    truths = [sample.truth for sample in samples]
    print("asked by | AP50 | AP30 | presence AUC | presence of absent ones, 9 of 10 below")
    for way, row in answers.items():
        found = figures(truths, row, Options().threshold)
        absent = np.concatenate(
            [each.presence[~truth.present()] for each, truth in zip(row, truths, strict=True)]
        )
        print(
            f"{way} | {found['AP50']:.3f} | {found['AP30']:.3f} | {found['presence_auc']:.3f} | "
            f"{np.quantile(absent, 0.9):.3f}"
        )


def drawn(sample: Sample) -> Sample:
    """The sample without the prompts that no glyph shows."""
    known = {concept.name for concept in concepts()}
    prompts = tuple(name for name in sample.truth.prompts if name in known)
    return replace(sample, truth=replace(sample.truth, prompts=prompts))


def crop(name: str, rng: np.random.Generator) -> np.ndarray:
    """A picture of one of a thing's glyphs, uint8 (H, W, 3)."""
    glyphs = next(concept.glyphs for concept in concepts() if concept.name == name)
    glyph = glyphs[int(rng.integers(len(glyphs)))]
    glyph = place(glyph, SIDE, float(rng.integers(-20, 21)), bool(rng.random() < 0.5))
    canvas = make_background(rng, glyph.width + 2 * MARGIN, glyph.height + 2 * MARGIN)
    canvas.paste(glyph, (MARGIN, MARGIN), glyph)
    return np.array(canvas)


if __name__ == "__main__":
    main()
