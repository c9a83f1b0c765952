"""What a trained ViT's tokens say: where things are, and not what a few outliers hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from localize import Localizer, Options
from localize.encoders import tokens
from localize.evaluation import metrics
from localize.evaluation.evaluate import answer_of, scene_samples

TRAINING = Path(__file__).parent.parent / "training"
VITS = ["vit", "vit_pooled"]  # taught tokens too; taught by pooled vectors alone, as CLIPs are


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


@pytest.mark.parametrize("name", VITS)
def test_its_tokens_draw_better_boxes_than_its_windows_alone(name):
    encoder = Localizer.from_pretrained(TRAINING / name, dtype="float32").encoder
    options = Options(threshold=0)
    with_tokens = ap50(Localizer(encoder, options))
    without = ap50(Localizer(WithoutTokens(encoder), options))
    assert with_tokens > without + 0.02


def with_outliers(localizer: Localizer) -> Localizer:
    """The localizer whose ViT keeps notes about the picture in 3 of 64 patches of every crop.

    They come to the last block at four times the others' norm, in the direction of the class token.
    """
    drawn = torch.Generator().manual_seed(0)

    def inject(_, args):
        hidden, *rest = args
        norm = hidden[:, 1:].norm(dim=-1).median(1).values
        notes = 4 * norm[:, None] * F.normalize(hidden[:, 0], dim=-1)
        places = torch.rand(len(hidden), 64, generator=drawn).topk(3).indices + 1
        hidden = hidden.clone()
        hidden[torch.arange(len(hidden))[:, None], places] = notes[:, None]
        return hidden, *rest

    block = localizer.encoder._model.vision_model.encoder.layers[-1]
    block.register_forward_pre_hook(inject, prepend=True)
    return localizer


def differences(name: str) -> tuple[float, float, float, float]:
    """What outliers do in four scenes.

    To tokens: the cosine with what they are without, which one in a hundred falls below. To maps of
    what is there: the change as a part of their peaks, on average and at most. To the presence of
    what is not there: the largest rise.
    """
    folder = TRAINING / name
    sound, noted = (
        Localizer.from_pretrained(folder, dtype="float32", options=Options(threshold=0))
        for _ in range(2)
    )
    with_outliers(noted)
    cosines, maps, presence = [], [], []
    for sample in scene_samples(4, seed=50_000):
        encoded = [each.encode(sample.image) for each in (sound, noted)]
        cosines.append((encoded[0].tokens * encoded[1].tokens).sum(-1).flatten())
        one, other = (
            each.locate(what, sample.truth.prompts)
            for each, what in zip((sound, noted), encoded, strict=True)
        )
        here = sample.truth.present()
        peaks = one.maps[here].max((1, 2), keepdims=True)
        maps.append((np.abs(one.maps - other.maps)[here] / peaks).ravel())
        presence.append((other.presence - one.presence)[~here])
    changes = np.concatenate(maps)
    return (
        float(torch.cat(cosines).quantile(0.01)),
        float(changes.mean()),
        float(changes.max()),
        float(np.concatenate(presence).max()),
    )


@pytest.mark.parametrize("name", VITS)
def test_outliers_among_its_patches_change_its_maps_little_and_raise_no_absent_prompts(
    name, monkeypatch
):
    cosine, mean, most, risen = differences(name)
    assert cosine > 0.85
    assert mean < 0.01
    assert most < 0.45
    assert risen < 0.01
    monkeypatch.setattr(tokens, "OUTLIER", 1e9)
    assert differences(name)[0] < 0.4  # they do harm where they are not mended
