"""Pictures as prompts, beside words: how well each finds things, and knows that they are not there.

    python benchmarks/picture_prompts.py --scenes 40 --seed 60000
    python benchmarks/picture_prompts.py --data photos --encoder my_encoder:Tower

Of scenes a prompt's picture is one of the thing's glyphs, tilted, on a background of its own: never
the pixels of the scene. Of photos, a folder in COCO's layout, it is the largest box of the name,
cut out of one photo that is not asked for it then; names that are in one photo alone are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from material import add_material, material

from localize import Localizer, Options, Prompt
from localize.evaluation import metrics
from localize.evaluation.evaluate import answer_of
from localize.evaluation.samples import Answer, Sample
from localize.evaluation.scenes import concepts, make_background, place
from localize.images import read_image

SIDE, MARGIN = 150, 10

WAYS: dict[str, Callable[[str, np.ndarray], Prompt]] = {
    "words": lambda name, picture: Prompt.of(name),
    "a picture": lambda name, picture: Prompt.from_image(picture, name),
    "both": lambda name, picture: Prompt.from_image(picture, name, words=name),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parsed = parser.parse_args()
    encoder, samples = material(parsed)
    pictures, samples = of_photos(samples) if parsed.data else of_scenes(samples, parsed.seed)
    machine = Localizer(encoder, Options(threshold=0.0))
    answers: dict[str, list[Answer]] = {way: [] for way in WAYS}
    for sample, shown in zip(samples, pictures, strict=True):
        encoded = machine.encode(sample.image)
        for way, prompt in WAYS.items():
            asked = [prompt(*each) for each in zip(sample.truth.prompts, shown, strict=True)]
            answers[way].append(answer_of(machine.locate(encoded, asked), encoded.num_crops))
    truths = [sample.truth for sample in samples]
    here = np.concatenate([truth.present() for truth in truths])
    print(f"{len(truths)} pictures, {here.sum()} names there and {(~here).sum()} not")
    print("asked by | AP50 | AP30 | presence AUC | presence of absent ones, 9 of 10 below")
    for way, row in answers.items():
        precision = [
            np.mean([*metrics.average_precision(truths, row, iou).values()]) for iou in (0.5, 0.3)
        ]
        absent = np.concatenate([each.presence for each in row])[~here]
        print(
            f"{way} | {precision[0]:.3f} | {precision[1]:.3f} | "
            f"{metrics.presence_auc(truths, row):.3f} | {np.quantile(absent, 0.9):.3f}"
        )


def of_scenes(samples: Sequence[Sample], seed: int) -> tuple[list[list[np.ndarray]], list[Sample]]:
    """A picture for each prompt of each scene, and the scenes without what no glyph shows."""
    rng = np.random.default_rng(seed)
    glyphs = {concept.name: concept.glyphs for concept in concepts()}
    kept = [only(sample, glyphs) for sample in samples]
    return [[drawn(glyphs[name], rng) for name in each.truth.prompts] for each in kept], kept


def of_photos(samples: Sequence[Sample]) -> tuple[list[list[np.ndarray]], list[Sample]]:
    """The same of photos: of each name the largest thing is cut out, and not asked where it was."""
    boxes = [
        {name: sample.truth.boxes_of(name, crowds=False) for name in sample.truth.labels}
        for sample in samples
    ]
    shown, origin = {}, {}
    for name in sorted({name for each in boxes for name in each if len(each[name])}):
        areas = [areas_of(each.get(name, np.empty((0, 4)))) for each in boxes]
        if sum(len(each) > 0 for each in areas) < 2:
            continue
        origin[name] = int(np.argmax([each.max(initial=0) for each in areas]))
        box = boxes[origin[name]][name][areas[origin[name]].argmax()]
        left, top, right, bottom = np.rint(box).astype(int)
        pixels = read_image(samples[origin[name]].image).pixels
        shown[name] = np.ascontiguousarray(pixels[top:bottom, left:right])
    kept = [
        only(sample, [name for name in shown if origin[name] != number])
        for number, sample in enumerate(samples)
    ]
    return [[shown[name] for name in each.truth.prompts] for each in kept], kept


def only(sample: Sample, names: Sequence[str] | dict[str, object]) -> Sample:
    """The sample with no other prompts and things than these."""
    truth = sample.truth
    rows = [row for row, label in enumerate(truth.labels) if label in names]
    truth = replace(
        truth,
        labels=tuple(truth.labels[row] for row in rows),
        xyxy=truth.xyxy[rows],
        iscrowd=truth.iscrowd[rows],
        prompts=tuple(name for name in truth.prompts if name in names),
    )
    return replace(sample, truth=truth)


def areas_of(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def drawn(glyphs: Sequence, rng: np.random.Generator) -> np.ndarray:
    """A picture of one of a thing's glyphs, uint8 (H, W, 3)."""
    glyph = glyphs[int(rng.integers(len(glyphs)))]
    glyph = place(glyph, SIDE, float(rng.integers(-20, 21)), bool(rng.random() < 0.5))
    canvas = make_background(rng, glyph.width + 2 * MARGIN, glyph.height + 2 * MARGIN)
    canvas.paste(glyph, (MARGIN, MARGIN), glyph)
    return np.array(canvas)


if __name__ == "__main__":
    main()
