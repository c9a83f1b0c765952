"""Label Studio's machine learning backend (labelstud.io/guide/ml_create).

Knows that protocol; must not know how answers come about.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from localize.export.label_studio import region
from localize.images import ImageError
from localize.serve.desk import Desk
from localize.serve.label_config import LabelConfig, read_config
from localize.serve.pictures import Pictures
from localize.serve.refusal import RefusalError, shown

logger = logging.getLogger(__name__)


class Setup(BaseModel):
    """What Label Studio sends when a project is connected; its hostname and token are not used."""

    label_config: str | None = None
    # Named "schema" by Label Studio, which is a word of pydantic's own.
    model_config = {"extra": "allow"}


class Tasks(BaseModel):
    """Tasks to predict, with the project's labelling configuration."""

    tasks: list[dict[str, Any]]
    label_config: str


def router(desk: Desk, pictures: Pictures) -> APIRouter:
    routes = APIRouter(tags=["Label Studio"])

    @routes.get("/health", summary="Whether the backend is up")
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "localize"}

    @routes.post("/setup", summary="Check a project's labelling configuration")
    async def setup(body: Setup) -> dict[str, str]:
        config = (body.model_extra or {}).get("schema") or body.label_config
        version = _version(desk, read_config(config)) if isinstance(config, str) else ""
        return {"model_version": version or desk.localizer.model}

    @routes.post("/predict", summary="Boxes for tasks, in percent of their pictures")
    async def predict(body: Tasks) -> dict[str, Any]:
        config = read_config(body.label_config)
        results: list[Any] = []
        refusals: list[Exception] = []
        for task in body.tasks:
            try:
                results.append(await _predicted(task, config, desk, pictures))
            except (RefusalError, ImageError) as refusal:
                # Of several tasks this one gets no prediction, rather than one that finds nothing.
                logger.warning("task %s: %s", shown(str(task.get("id"))), refusal)
                results.append([])
                refusals.append(refusal)
        if refusals and len(refusals) == len(results):
            raise refusals[0]
        return {"results": results}

    return routes


def _version(desk: Desk, config: LabelConfig) -> str:
    """The model and a digest of what is asked: Label Studio asks again where a version is new."""
    asked = [(prompt.label, prompt.texts, prompt.others) for prompt in config.prompts]
    digest = hashlib.sha256(repr((asked, desk.localizer.options)).encode("utf-8", "replace"))
    return f"{desk.localizer.model}-{digest.hexdigest()[:8]}"


async def _predicted(
    task: dict[str, Any], config: LabelConfig, desk: Desk, pictures: Pictures
) -> dict[str, Any]:
    """One task's prediction: regions score by their boxes, the task by its surest presence."""
    data = task.get("data")
    address = data.get(config.field) if isinstance(data, dict) else None
    if not isinstance(address, str) or not address:
        raise RefusalError(422, f"a task has no picture: its data need {config.field!r}")
    result = await desk.locate(await pictures.read(address), config.prompts)
    names = {"from_name": config.from_name, "to_name": config.to_name}
    return {
        "result": [region(box, result.width, result.height) | names for box in result.boxes],
        "score": float(result.presence.max()),
        "model_version": _version(desk, config),
    }
