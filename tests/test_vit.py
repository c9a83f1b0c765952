"""On a trained ViT the tokens of its re-wired last block say where things are."""

from pathlib import Path

import numpy as np

from localize import Localizer, Options
from localize.evaluation import metrics
from localize.evaluation.evaluate import scene_samples

VIT = Path(__file__).parent.parent / "training" / "vit"


class WithoutTokens:
    """An encoder whose crops have embeddings only."""

    def __init__(self, encoder):
        self.encoder = encoder

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode_crops(self, crops):
        return self.encoder.encode_crops(crops)[0], None

    def encode_prompts(self, texts):
        return self.encoder.encode_prompts(texts)


def overlap_of_best_boxes(localizer: Localizer) -> float:
    """The mean IoU of the best box of each name with a thing of that name, in twelve scenes."""
    overlaps = []
    for sample in scene_samples(12, seed=90_000):
        names = sorted(set(sample.truth.labels))
        result = localizer.locate(sample.image, names)
        for name in names:
            best = [box.xyxy for box in result.boxes if box.label == name][:1]
            truths = sample.truth.boxes_of(name)
            overlaps.append(metrics.box_iou(np.array(best), truths).max() if best else 0.0)
    return float(np.mean(overlaps))


def test_its_tokens_draw_better_boxes_than_its_windows_alone():
    encoder = Localizer.from_pretrained(VIT, dtype="float32").encoder
    options = Options(threshold=0.02)
    with_tokens = overlap_of_best_boxes(Localizer(encoder, options))
    without = overlap_of_best_boxes(Localizer(WithoutTokens(encoder), options))
    assert with_tokens > without + 0.02
