"""What a client wrote, as prompts and as the bytes of a picture.

Knows texts and data addresses; must not know the protocol that they came in.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import replace

from localize.prompts import Prompt, as_prompt
from localize.serve.refusal import RefusalError

MOST_PROMPTS = 300
"""The most prompts of one request: a map of each is made."""

LONGEST_PROMPT = 500
"""Letters of the longest prompt. Encoders read some 77 tokens."""


def as_prompts(texts: Iterable[str | Prompt], threshold: float | None = None) -> list[Prompt]:
    """Prompts of texts. threshold: of their boxes, None for the server's own.

    Raises RefusalError (422) where one is none, or their number or threshold is wrong.
    """
    try:
        prompts = [replace(as_prompt(text), threshold=threshold) for text in texts]
    except (TypeError, ValueError) as error:
        raise RefusalError(422, str(error)) from None
    if not 0 < len(prompts) <= MOST_PROMPTS:
        raise RefusalError(
            422, f"ask for 1 to {MOST_PROMPTS} prompts at once, not {len(prompts):,}"
        )
    for text in {
        text for prompt in prompts for each in (prompt.texts, *prompt.others) for text in each
    }:
        if len(text) > LONGEST_PROMPT:
            raise RefusalError(422, f"a prompt must have at most {LONGEST_PROMPT} letters")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise RefusalError(422, "a prompt must be text, and one has half a letter in it")
    return prompts


def from_base64(text: str) -> bytes:
    """The picture in a data address (``data:image/png;base64,...``), or in bare base64.

    Raises RefusalError (422) for what is neither.
    """
    head, comma, rest = text.partition(",") if text.startswith("data:") else ("", "", text)
    if head and not (comma and head.endswith(";base64")):
        raise RefusalError(422, "a data address must be in base64: data:image/png;base64,...")
    try:
        return base64.b64decode("".join(rest.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RefusalError(422, "the picture is not in base64, or was cut short") from None
