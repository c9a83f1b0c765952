"""What a page asks, as prompts.

Knows the fields of a question and the pictures that were sent; must not know models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pydantic import BaseModel, Field

from localize.images import Picture
from localize.prompts import Prompt
from localize.serve.asked import as_prompts
from localize.serve.refusal import RefusalError

MOST_PROMPTS = 50
"""The most prompts of a page: it shows a map of each."""


class Like(BaseModel):
    """A rectangle of a picture that was sent: more like what it shows is wanted.

    box: xyxy in pixels of the upright picture. label: what answers call it.
    """

    picture: str
    box: tuple[float, float, float, float]
    label: str = Field(min_length=1, max_length=100)


class Wanted(BaseModel):
    """What to look for. negatives: what is not meant, scored against every prompt."""

    prompts: list[str] = []
    negatives: list[str] = []
    like: list[Like] = []


class Question(Wanted):
    """What to look for where. picture: the name it got when it was sent. threshold: the least score
    of a reported box, None for the model's own."""

    picture: str
    model: str
    threshold: float | None = Field(None, ge=0, le=1)


def asked_of(
    wanted: Wanted, crops: Sequence[Picture], threshold: float | None = None
) -> list[Prompt]:
    """The prompts, words first. crops: what the rectangles show.

    Raises RefusalError (422) for what cannot be asked.
    """
    if len(wanted.prompts) + len(wanted.like) > MOST_PROMPTS:
        raise RefusalError(422, f"ask for {MOST_PROMPTS} things at once at most")
    labels = [*wanted.prompts, *(each.label for each in wanted.like)]
    if len(set(labels)) < len(labels):
        raise RefusalError(422, "each thing must be asked once, under a name of its own")
    negatives = tuple(wanted.negatives)
    if negatives:
        as_prompts(negatives)  # looks at their number and length
    like = [
        Prompt.from_image(crop, each.label) for crop, each in zip(crops, wanted.like, strict=True)
    ]
    if not labels:
        return []
    try:
        return [
            replace(each, negatives=negatives)
            for each in as_prompts([*wanted.prompts, *like], threshold)
        ]
    except ValueError as error:
        raise RefusalError(422, str(error)) from None
