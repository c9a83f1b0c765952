"""Boxes, presence and heatmaps in FiftyOne: a remote source of its model zoo.

    model = foz.load_zoo_model("clip-localize/vit-base-patch16", prompts=["a cat", "a bicycle"])
    dataset.apply_model(model, label_field="localize")

See README.md beside this file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.models import Model, SamplesMixin

from localize import Localization, Localizer, Options, Prompt
from localize.encoders import load_encoder

MODELS = {
    "clip-localize/vit-base-patch16": "openai/clip-vit-base-patch16",
    "clip-localize/emoji": "emoji",
}

Pixels = np.ndarray[Any, Any]


@dataclass
class Config:
    """What FiftyOne may set for the time of a run.

    confidence_thresh: the least score of a box; None: that of each prompt or of the options.
    """

    confidence_thresh: float | None = None


class LocalizeModel(SamplesMixin, Model):  # type: ignore[misc]
    """Asks every picture for the same prompts; gives FiftyOne's labels.

    Where a sample says which file a picture is of, the file is read, with its colour profile, which
    FiftyOne does not heed.
    heatmaps: whether each prompt's relevance map is given too.
    """

    media_type = "image"
    ragged_batches = False  # Pictures of any sizes go together.
    transforms = None
    preprocess = False

    def __init__(self, localizer: Localizer, prompts: Sequence[str | Prompt], heatmaps: bool):
        super().__init__()
        self.config = Config()
        self._localizer, self._prompts, self._heatmaps = localizer, list(prompts), heatmaps

    def predict(self, arg: Pixels, sample: Any = None) -> dict[str, fo.Label]:
        """The labels of one picture, uint8 (H, W, 3), that a sample may be of."""
        return self.predict_all([arg], None if sample is None else [sample])[0]

    def predict_all(
        self, args: Iterable[Pixels], samples: Iterable[Any] | None = None
    ) -> list[dict[str, fo.Label]]:
        """The labels of several pictures; batches of crops are filled across them."""
        pictures = args if samples is None else map(_source, args, samples)
        results = self._localizer.locate_many(pictures, self._prompts)
        return [self._labels(result) for result in results]

    def _labels(self, result: Localization) -> dict[str, fo.Label]:
        """boxes: what was found; presence: how sure it is that each prompt is there at all.

        With heatmaps, `heatmap_` and a prompt's label: its map, uint8 of 255 times the relevance.
        """
        least = self.config.confidence_thresh
        boxes = [
            fo.Detection(
                label=box.label,
                bounding_box=_relative(box.xyxy, result.width, result.height),
                confidence=float(box.score),
            )
            for box in result.boxes
            if least is None or box.score >= least
        ]
        presence = [
            fo.Classification(label=label, confidence=float(sure))
            for label, sure in zip(result.prompts, result.presence, strict=True)
        ]
        labels = {
            "boxes": fo.Detections(detections=boxes),
            "presence": fo.Classifications(classifications=presence),
        }
        if self._heatmaps:
            maps = (255 * result.maps).round().astype(np.uint8)
            for label, relevance in zip(result.prompts, maps, strict=True):
                labels[f"heatmap_{_field(label)}"] = fo.Heatmap(map=relevance, range=[0, 255])
        return labels


def download_model(model_name: str, model_path: str) -> None:
    """Fetch the weights into the hub's cache, and note at `model_path` that they are there."""
    load_encoder(MODELS[model_name])
    Path(model_path).write_text(f"{MODELS[model_name]}, in the hub's cache\n")


def load_model(
    model_name: str,
    model_path: str,
    *,
    prompts: Sequence[str | Prompt],
    model: str | None = None,
    device: str = "auto",
    heatmaps: bool = True,
    **options: Any,
) -> LocalizeModel:
    """The model for prompts, as `foz.load_zoo_model` passes its arguments on.

    prompts: words, or `Prompt`s, which may have alternatives, pictures and thresholds.
    model: a hub id, a folder or "open_clip:..." in place of the name's own.
    options: those of `localize.Options`, such as threshold and negatives.

    Raises what `Localizer.from_pretrained` raises, and ValueError for prompts that are none or
    whose heatmaps would have one name.
    """
    asked = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    if not asked:
        raise ValueError("prompts must not be empty; say in words what to look for")
    fields = [_field(each.label if isinstance(each, Prompt) else each) for each in asked]
    if heatmaps and len(set(fields)) < len(fields):
        raise ValueError("two prompts would have one field for their heatmaps; say heatmaps=False")
    localizer = Localizer.from_pretrained(
        model or MODELS[model_name], device=device, options=Options(**options)
    )
    return LocalizeModel(localizer, asked, heatmaps)


def _source(pixels: Pixels, sample: Any) -> Pixels | str:
    """The file of a sample, or the pixels where there is none of a picture: a frame of a video."""
    return sample.filepath if getattr(sample, "media_type", None) == "image" else pixels


def _relative(xyxy: tuple[float, ...], width: int, height: int) -> list[float]:
    """Left, top, width and height as parts of the picture's."""
    left, top, right, bottom = xyxy
    return [left / width, top / height, (right - left) / width, (bottom - top) / height]


def _field(label: str) -> str:
    """A prompt as a part of a field's name."""
    return re.sub(r"\W+", "_", label.lower()).strip("_")
