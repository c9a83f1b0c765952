"""The application: the protocols behind the gate.

Knows FastAPI; must not know sockets or signals.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from localize import __version__
from localize.images import ImageError
from localize.serve import label_studio, plain, x_anylabeling
from localize.serve.desk import Desk
from localize.serve.gate import Gate
from localize.serve.pictures import Pictures
from localize.serve.refusal import FAILED, RefusalError, as_body


def make_app(
    desk: Desk,
    pictures: Pictures,
    *,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
) -> Gate:
    """All that is served, as an ASGI application. See `Gate` for token and hosts."""
    # The pages that FastAPI brings load scripts from elsewhere.
    app = FastAPI(title="localize", version=__version__, docs_url=None, redoc_url=None)
    gate = Gate(app, pictures.max_bytes, token, hosts)
    app.include_router(plain.router(desk, gate.has_room))
    app.include_router(label_studio.router(desk, pictures))
    app.include_router(x_anylabeling.router(desk))

    @app.get("/", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return plain.page(app.openapi(), desk.localizer.model)

    explain_errors(app)
    return gate


def explain_errors(app: FastAPI) -> None:
    """Have whatever goes wrong in an application answered with one sentence."""

    @app.exception_handler(RefusalError)
    async def refused(request: Request, error: RefusalError) -> JSONResponse:
        return JSONResponse(as_body(request.url.path, str(error)), error.status)

    @app.exception_handler(ImageError)
    async def unreadable(request: Request, error: ImageError) -> JSONResponse:
        return JSONResponse(as_body(request.url.path, str(error)), 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "the request"
        return JSONResponse(as_body(request.url.path, f"{where}: {first['msg']}"), 422)

    @app.exception_handler(Exception)  # which the gate gets too, and logs
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(as_body(request.url.path, FAILED), 500)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        known = {
            404: "there is nothing at this address; the page at / says what there is",
            405: "this address does not take that method; the page at / says what there is",
        }
        sentence = known.get(error.status_code, str(error.detail))
        body = as_body(request.url.path, sentence)
        return JSONResponse(body, error.status_code, error.headers)
