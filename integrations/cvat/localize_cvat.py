"""First boxes in CVAT: an auto-annotation function for `cvat-cli` and the CVAT SDK.

    cvat-cli task auto-annotate TASK --function-file integrations/cvat/localize_cvat.py \\
        -p "prompts=str:a cat, a bicycle" -p model=str:openai/clip-vit-base-patch16

The task's labels of the same names get the boxes. See README.md beside this file.
"""

from __future__ import annotations

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk import models
from PIL import Image

from localize import Localizer
from localize.prompts import Prompt


class Function:
    """A detection function of the CVAT SDK; see `create`.

    localizer: does the work. labels: of the task, each asked by its own words.
    """

    def __init__(self, localizer: Localizer, labels: list[str]):
        self._localizer = localizer
        self._labels = labels

    @property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """One label of rectangles for each prompt."""
        return cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(label, number, type="rectangle")
                for number, label in enumerate(self._labels)
            ]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[models.LabeledShapeRequest]:
        """The boxes of all labels that score the context's threshold, or the localizer's own."""
        threshold = context.conf_threshold
        prompts = [Prompt.of(label, threshold=threshold) for label in self._labels]
        result = self._localizer.locate(image, prompts)
        return [
            cvataa.rectangle(self._labels.index(box.label), list(box.xyxy), score=box.score)
            for box in result.boxes
            if threshold is None or box.score >= threshold
        ]


def create(
    prompts: str, model: str = "openai/clip-vit-base-patch16", device: str = "auto"
) -> Function:
    """The function for labels with commas between them; `cvat-cli` passes its `-p` here.

    Raises ValueError where there is no label, and what `Localizer.from_pretrained` raises.
    """
    labels = list(dict.fromkeys(word for part in prompts.split(",") if (word := part.strip())))
    if not labels:
        raise ValueError("prompts must be labels of the task with commas between them")
    return Function(Localizer.from_pretrained(model, device=device), labels)
