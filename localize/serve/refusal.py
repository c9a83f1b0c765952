"""What a client is told when it gets no answer: a status and one sentence.

Knows HTTP's statuses; must not know what was asked.
"""

from __future__ import annotations

from typing import Any

from localize.names import printable

LONGEST = 300
"""Letters of the longest sentence."""

FAILED = "the server failed at this request; its log says how"


class RefusalError(Exception):
    """A request that is not answered. status: of HTTP. The message is one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(shown(sentence))
        self.status = status


def shown(text: str) -> str:
    """A sentence as it can be printed, without the far end of what a client wrote into it."""
    text = printable(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def as_body(path: str, sentence: str) -> dict[str, Any]:
    """What is sent for a refusal.

    Under /v1/ it has the form that X-AnyLabeling reads too.
    """
    text = shown(sentence)
    body: dict[str, Any] = {"detail": text}
    if path.startswith("/v1/"):
        body |= {"success": False, "error": {"code": "REFUSED", "message": text}}
    return body
