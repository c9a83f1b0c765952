"""On a trained ViT the tokens of its re-wired last block say where things are."""

from pathlib import Path

import numpy as np

from localize import Localizer, Options
from localize.evaluation import metrics
from localize.evaluation.evaluate import answer_of, scene_samples

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


def ap50(localizer: Localizer) -> float:
    """AP50 in twelve scenes."""
    samples = list(scene_samples(12, seed=90_000))
    results = [localizer.locate(sample.image, sample.truth.prompts) for sample in samples]
    answers = [answer_of(result, crops=0) for result in results]
    found = metrics.average_precision([sample.truth for sample in samples], answers, iou=0.5)
    return float(np.mean(list(found.values())))


def test_its_tokens_draw_better_boxes_than_its_windows_alone():
    encoder = Localizer.from_pretrained(VIT, dtype="float32").encoder
    options = Options(threshold=0)
    with_tokens = ap50(Localizer(encoder, options))
    without = ap50(Localizer(WithoutTokens(encoder), options))
    assert with_tokens > without + 0.02
