"""The localizer with the manners of transformers' zero-shot object detection pipeline.

Knows the two verbs; must not know how answers come about. A callable takes a picture and candidate
labels and gives a list of plain dicts, best first, so that it can be swapped in where such a
pipeline stands (huggingface.co/docs/transformers, ``ZeroShotObjectDetectionPipeline``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from localize.images import ImageSource
from localize.localizer import Localizer
from localize.prompts import Prompt


class ZeroShotDetector:
    """Finds candidate labels in pictures, as boxes with scores.

    >>> detector = ZeroShotDetector("emoji")
    >>> detector("photo.jpg", candidate_labels=["a cat", "a dog"])
    [{'score': 0.93, 'label': 'a cat', 'box': {'xmin': 12, 'ymin': 40, 'xmax': 300, 'ymax': 410}}]
    """

    def __init__(self, model: str | os.PathLike[str] | Localizer, **options: Any) -> None:
        """model: what `Localizer.from_pretrained` takes, with its options, or a `Localizer`."""
        if isinstance(model, Localizer) and options:
            raise TypeError("a Localizer has its options already; give them to it")
        self.localizer = (
            model if isinstance(model, Localizer) else Localizer.from_pretrained(model, **options)
        )

    def __call__(
        self,
        image: ImageSource | Iterable[ImageSource | Mapping[str, Any]],
        candidate_labels: str | Prompt | Sequence[str | Prompt] | None = None,
        *,
        threshold: float | None = None,
        top_k: int | None = None,
    ) -> list[Any]:
        """The boxes of one picture, or a list of such lists for several.

        image: one picture (a path, bytes, a PIL image or an array), or several, or dicts with
            "image" and "candidate_labels", as the pipeline takes them.
        candidate_labels: prompts; text may name several with commas between them.
        threshold: the least score, in [0, 1]; None for the localizer's own. top_k: the most boxes.

        Raises ImageError for a picture that cannot be read, and ValueError without any label.
        """
        localizer = self.localizer
        if threshold is not None and threshold != localizer.options.threshold:
            options = replace(localizer.options, threshold=threshold)
            localizer = Localizer(localizer.encoder, options)
        if not isinstance(image, list | tuple):
            return _boxes(localizer, image, candidate_labels, top_k)
        return [_boxes(localizer, each, candidate_labels, top_k) for each in image]


def _boxes(
    localizer: Localizer, image: Any, labels: Any, top_k: int | None
) -> list[dict[str, Any]]:
    """The boxes of one picture, which may bring its labels along in a dict."""
    if isinstance(image, Mapping):
        image, labels = image["image"], image["candidate_labels"]
    if labels is None:
        raise ValueError("candidate_labels must say what to look for")
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",")]
    found = localizer.locate(image, labels).to_dict()["boxes"]
    return [{key: box[key] for key in ("score", "label", "box")} for box in found[:top_k]]
