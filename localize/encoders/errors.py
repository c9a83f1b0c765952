"""What every refusal of a checkpoint shares.

Knows the names a model may have; must not know files, the hub or any library of models.
"""

from __future__ import annotations

import re

EMBEDDED = "emoji"  # the name of the model that is shipped inside the package
ADVICE = f"give a folder with a CLIP-like checkpoint, a hub id, or {EMBEDDED!r}"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one sentence with what to try instead."""


def first_sentence(error: BaseException) -> str:
    """An exception's message cut to its first sentence, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.split(r"(?<=[a-z)'\"`])\. ", text)[0].rstrip(".")[:300]
