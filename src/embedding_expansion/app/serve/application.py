"""The application: routes, the page, and one sentence for whatever goes wrong."""

from __future__ import annotations

import hmac
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from embedding_expansion.app.serve import api, models
from embedding_expansion.app.serve.batching import Busy, Stopped
from embedding_expansion.app.serve.decoders import Refused
from embedding_expansion.app.serve.guard import LOOPBACK_NAMES, Guard
from embedding_expansion.app.serve.service import Service
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, StoreError

PAGE = Path(__file__).parent / "page"


def application(service: Service, settings: Settings, *, is_loopback: bool) -> Guard:
    """What uvicorn runs.

    Args:
        service: answers.
        settings: of the server.
        is_loopback: whether only this machine reaches it; the Host header is checked then, unless a token is asked for.
    """
    app = FastAPI(
        title="embex serve",
        version=version("embedding-expansion"),
        description="Finds the images of a collection that are like an image.",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        responses=_ANYWHERE,
    )
    app.state.service = service
    guarded = _guarded(settings.token)
    app.include_router(api.api, dependencies=guarded, responses=_UNAUTHORISED if guarded else None)
    app.include_router(api.monitoring, dependencies=guarded, responses=_UNAUTHORISED if guarded else None)
    app.include_router(api.open_to_all)
    app.router.routes += [Route("/", _page), Route("/{name}", StaticFiles(directory=PAGE))]
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(EmbeddingExpansionError, _ours)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)
    # Behind a proxy the name is another one; a token keeps those out who make a name point here.
    by_name = is_loopback and settings.token is None
    hosts = LOOPBACK_NAMES | {settings.host.lower()} if by_name else None
    return Guard(app, service.metrics, hosts, settings.root_path)


async def _page(request: Request) -> Response:
    """The page; below a prefix its parts are named with it, since its address may come without the last slash."""
    root = request.scope.get("root_path", "")
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    return HTMLResponse(page.replace('="./', f'="{root}/') if root else page)


_ANYWHERE: dict[int | str, dict[str, Any]] = {
    403: {"model": models.Problem, "description": "A page of another site asks"},
    421: {"model": models.Problem, "description": "The Host header is none of this server's names"},
    422: {"model": models.Problem, "description": "The request cannot be what is meant; says why"},
    500: {"model": models.Problem, "description": "The server failed"},
    503: {"model": models.Problem, "description": "The index cannot be read now; Retry-After says when to come back"},
}
_UNAUTHORISED: dict[int | str, dict[str, Any]] = {
    401: {"model": models.Problem, "description": "The token is missing or wrong"}
}


def _guarded(token: str | None) -> Sequence[Any]:
    """The dependency that asks for the token; none where there is none."""
    if token is None:
        return []
    bearer = HTTPBearer(auto_error=False, description="the token that the server was started with")

    async def check(given: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:  # noqa: B008
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                401,
                "this server asks for a token, and none or a wrong one was given; send Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    return [Depends(check)]


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": models.shown(detail)}, status, headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = "there is nothing at this address; /openapi.json lists what there is"
    elif error.status_code == 405:
        detail = f"{request.method} is not for this address; /openapi.json says what is"
    return _problem(error.status_code, detail, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    said = first["msg"].replace("Input should be", "it should be")
    return _problem(422, f"{first['loc'][-1]} is {first.get('input')!r:.100}; {said}")


async def _ours(request: Request, error: Exception) -> Response:
    if isinstance(error, (Busy, Stopped)):
        return _problem(503, str(error), {"Retry-After": "1"})
    if isinstance(error, Refused):
        return _problem(error.status, str(error))
    if isinstance(error, InvalidInput):
        return _problem(422, str(error))
    print(f"embex serve: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    if isinstance(error, StoreError):  # it may name where the index is
        return _problem(
            503, "the index cannot be read now; try again, or ask who runs the server", {"Retry-After": "5"}
        )
    return _problem(500, "the server cannot answer this; its log says why")


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _unexpected(request: Request, error: Exception) -> Response:
    return _problem(500, "the server failed at this; its log says why")
