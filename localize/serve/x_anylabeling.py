"""X-AnyLabeling's remote server (its documentation: docs/router.md of X-AnyLabeling-Server).

Knows that protocol; must not know how answers come about.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from localize.result import Box
from localize.serve.asked import as_prompts, from_base64
from localize.serve.desk import Desk
from localize.serve.refusal import RefusalError

MODEL = "localize"


class Params(BaseModel):
    """text_prompt: what to look for, commas or full stops between prompts."""

    text_prompt: str = ""
    conf_threshold: float = Field(default=0, ge=0, le=1)


class Question(BaseModel):
    """A picture, as a data address or in bare base64, and what to ask of it."""

    model: str
    image: str
    params: Params = Params()


def router(desk: Desk) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["X-AnyLabeling"])

    @routes.get("/models", summary="The one model there is")
    async def models() -> dict[str, Any]:
        threshold = desk.localizer.options.threshold
        return {
            "success": True,
            "data": {
                MODEL: {
                    "display_name": f"localize: {desk.localizer.model}",
                    "batch_processing_mode": "text_prompt",
                    "widgets": [
                        {"name": "edit_text", "value": None},
                        {"name": "button_send", "value": None},
                        {"name": "input_conf", "value": None},
                        {"name": "edit_conf", "value": threshold},
                        {"name": "toggle_preserve_existing_annotations", "value": False},
                    ],
                    "params": {"conf_threshold": threshold},
                }
            },
        }

    @routes.post("/predict", summary="Boxes for a text prompt, as rectangles of four corners")
    async def predict(question: Question) -> dict[str, Any]:
        if question.model != MODEL:
            raise RefusalError(404, f"there is no model {question.model}; the one here is {MODEL}")
        # Its slider starts at 0, where even boxes are reported that are more likely wrong.
        threshold = question.params.conf_threshold or None
        prompts = as_prompts(in_parts(question.params.text_prompt), threshold)
        result = await desk.locate(from_base64(question.image), prompts)
        shapes = [shape(box) for box in result.boxes]
        return {"success": True, "data": {"shapes": shapes, "description": ""}}

    return routes


def in_parts(text: str) -> list[str]:
    """The prompts in a text: commas, semicolons and full stops stand between them."""
    return [part for each in re.split(r"[,;\n]|\.(?=[\s.,;]|$)", text) if (part := each.strip())]


def shape(box: Box) -> dict[str, Any]:
    """A box as a rectangle: its corners from the top left one clockwise, in pixels."""
    left, top, right, bottom = box.xyxy
    return {
        "label": box.label,
        "shape_type": "rectangle",
        "points": [[left, top], [right, top], [right, bottom], [left, bottom]],
        "score": box.score,
    }
