"""A labelling configuration of Label Studio -> what to ask of which picture, and how to answer.

Knows the tags of Label Studio (labelstud.io/tags); must not know pictures or answers. The XML comes
from the network: its size is limited, and a DOCTYPE, which entities would need, is refused.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from localize.prompts import Prompt
from localize.serve.asked import as_prompts
from localize.serve.refusal import RefusalError

MOST_LETTERS = 200_000
"""The longest configuration that is read."""


@dataclass(frozen=True)
class LabelConfig:
    """What a project wants.

    from_name: of its RectangleLabels. to_name: of its Image. field: of a task's data, with the
    picture's address. prompts: one a label, called as regions call it.
    """

    from_name: str
    to_name: str
    field: str
    prompts: tuple[Prompt, ...]


def read_config(text: str) -> LabelConfig:
    """Find the first RectangleLabels that is for an Image.

    A label is asked by its ``predicted_values``, alternatives between commas, else by its
    ``value``; regions call it by its ``alias``, else by its value, as Label Studio does.
    Raises RefusalError (422) for what is no configuration or has no such tags.
    """
    root = _parsed(text)
    images = {tag.get("name"): tag for tag in root.iter("Image")}
    control = next(
        (tag for tag in root.iter("RectangleLabels") if tag.get("toName") in images), None
    )
    if control is None or not control.get("name"):
        raise RefusalError(
            422,
            "the label configuration needs a RectangleLabels whose toName is the name of an Image",
        )
    to_name = str(control.get("toName"))
    field = re.fullmatch(r"\$(\w+)", images[to_name].get("value") or "")
    if field is None:
        raise RefusalError(422, f"the Image {to_name} needs a value of the form $field")
    prompts = [_prompt(tag) for tag in control.iter("Label")]
    if not prompts:
        name = control.get("name")
        raise RefusalError(
            422, f"the RectangleLabels {name} has no Label, so there is nothing to ask"
        )
    return LabelConfig(str(control.get("name")), to_name, field[1], tuple(as_prompts(prompts)))


def _parsed(text: str) -> ET.Element:
    if len(text) > MOST_LETTERS:
        raise RefusalError(422, f"the label configuration has more than {MOST_LETTERS:,} letters")
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise RefusalError(422, "the label configuration must not have a DOCTYPE or entities")
    try:
        return ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise RefusalError(422, f"the label configuration is no XML: {error}") from None


def _prompt(tag: ET.Element) -> Prompt:
    value = (tag.get("value") or "").strip()
    words = [word.strip() for word in (tag.get("predicted_values") or "").split(",")]
    try:
        return Prompt.of(tag.get("alias") or value, any=[word for word in words if word] or [value])
    except ValueError:
        raise RefusalError(422, "each Label of the configuration needs a value in words") from None
