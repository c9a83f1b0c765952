"""`POST /locate`, whether the server is alive and ready, and a page that says what it answers.

Knows HTTP; must not know how answers come about.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, File, Form
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel

from localize.serve.asked import as_prompts
from localize.serve.desk import Desk


class Image(BaseModel):
    """The upright picture's size in pixels."""

    width: int
    height: int


class Corners(BaseModel):
    """In whole pixels of the upright picture; xmax and ymax exclusive."""

    xmin: int
    ymin: int
    xmax: int
    ymax: int


class Found(BaseModel):
    """One found thing. score: the chance, in [0, 1], that the box is right."""

    label: str
    score: float
    box: Corners


class Located(BaseModel):
    """presence: of each prompt, how sure it is in [0, 1] that it is there. boxes: best first."""

    version: int
    image: Image
    model: str
    prompts: list[str]
    presence: list[float]
    boxes: list[Found]


def router(desk: Desk, is_ready: Callable[[], bool]) -> APIRouter:
    routes = APIRouter()

    @routes.post("/locate", summary="Where the prompts are in a picture", tags=["localize"])
    async def locate(
        image: Annotated[bytes, File(description="an image file")],
        prompts: Annotated[list[str], Form(description="what to look for, one or more")],
        threshold: Annotated[
            float | None, Form(ge=0, le=1, description="least score of a reported box")
        ] = None,
    ) -> Located:
        result = await desk.locate(image, as_prompts(prompts, threshold))
        return Located.model_validate(result.to_dict())

    @routes.get("/livez", summary="Whether the server lives", tags=["probes"])
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/readyz", summary="Whether it takes another question", tags=["probes"])
    async def readyz() -> JSONResponse:
        ready = is_ready()
        status = "ready" if ready else "busy"
        return JSONResponse({"status": status}, 200 if ready else 503)

    return routes


def page(openapi: dict[str, Any], model: str) -> HTMLResponse:
    """What the server answers, from its OpenAPI description: one page without scripts."""
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{escape(path)}</code></td>"
        f"<td>{escape(facts.get('summary', ''))}</td></tr>"
        for path, methods in openapi["paths"].items()
        for method, facts in methods.items()
    )
    return HTMLResponse(
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>localize serve</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50em; margin: 2em auto }}
td {{ padding: .2em 1em .2em 0; vertical-align: top }} pre {{ background: #eee; padding: 1em }}
</style><h1>localize serve</h1><p>The model is <b>{escape(model)}</b>. Send a picture and words:
<pre>curl -F image=@photo.jpg -F "prompts=a cat" -F "prompts=a dog" http://HOST:PORT/locate</pre>
<table>{rows}</table><p>Every field is in <a href="openapi.json">openapi.json</a>.</p>"""
    )
