"""The FastAPI application: the routes, the page, and one-sentence responses for all errors."""

from __future__ import annotations

import hmac
import sys
from collections.abc import Sequence
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

from embedding_expansion import __version__
from embedding_expansion.app.serve import api, models
from embedding_expansion.app.serve.batching import Busy, Stopped
from embedding_expansion.app.serve.decoders import Refused
from embedding_expansion.app.serve.guard import LOOPBACK_NAMES, Guard
from embedding_expansion.app.serve.lookup import NoItem
from embedding_expansion.app.serve.service import Service
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.errors import EmbeddingExpansionError, InvalidInput, StoreError

PAGE = Path(__file__).parent / "page"


def application(service: Service, settings: Settings, *, is_loopback: bool) -> Guard:
    """Builds the ASGI application that uvicorn runs.

    Args:
        service: the collection to serve.
        settings: the options of the server.
        is_loopback: whether only this machine can reach the server. The Host header is checked then, unless there is
            a token.
    """
    app = FastAPI(
        title="embex serve",
        version=__version__,
        description="Searches a collection of images by similarity.",
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        responses=_ANYWHERE,
    )
    app.state.service = service
    guarded = _guarded(settings.token)
    for router in api.routers:
        app.include_router(router, dependencies=guarded, responses=_UNAUTHORISED if guarded else None)
    if settings.edit:
        app.include_router(api.edit, dependencies=guarded, responses=_UNAUTHORISED)
    app.include_router(api.monitoring, dependencies=guarded, responses=_UNAUTHORISED if guarded else None)
    app.include_router(api.open_to_all)
    app.router.routes += [Route("/", _page), Route("/{name}", StaticFiles(directory=PAGE))]
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(EmbeddingExpansionError, _ours)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unexpected)
    # Behind a proxy the Host header has another name. A token already protects against DNS rebinding.
    by_name = is_loopback and settings.token is None
    hosts = LOOPBACK_NAMES | {settings.host.lower()} if by_name else None
    return Guard(app, service.metrics, hosts, settings.root_path)


async def _page(request: Request) -> Response:
    """The page. Below a prefix, its links become absolute, as the URL may lack the final slash."""
    root = request.scope.get("root_path", "")
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    return HTMLResponse(page.replace('="./', f'="{root}/') if root else page)


_ANYWHERE: dict[int | str, dict[str, Any]] = {
    403: {"model": models.ErrorBody, "description": "A page of another site sent the request"},
    421: {"model": models.ErrorBody, "description": "The Host header does not name this server"},
    422: {"model": models.ErrorBody, "description": "The request is invalid; the detail says why"},
    500: {"model": models.ErrorBody, "description": "The server failed"},
    503: {"model": models.ErrorBody, "description": "The index cannot be read; try again after Retry-After seconds"},
}
_UNAUTHORISED: dict[int | str, dict[str, Any]] = {
    401: {"model": models.ErrorBody, "description": "The token is missing or wrong"}
}


def _guarded(token: str | None) -> Sequence[Any]:
    """The dependency that checks the token; an empty list if the server has no token."""
    if token is None:
        return []
    bearer = HTTPBearer(auto_error=False, description="the token given when the server was started")

    async def check(given: HTTPAuthorizationCredentials | None = Depends(bearer)) -> None:  # noqa: B008
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(
                401,
                "the token is missing or wrong; send the header Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    return [Depends(check)]


def _error_response(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": models.shown(detail)}, status, headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail = str(error.detail)
    if error.status_code == 404 and detail == "Not Found":
        detail = "there is nothing at this address; /openapi.json lists all routes"
    elif error.status_code == 405:
        detail = f"{request.method} is not allowed for this address; /openapi.json lists the allowed methods"
    return _error_response(error.status_code, detail, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    expected = first["msg"].replace("Input should be", "it should be")
    return _error_response(422, f"{first['loc'][-1]} is {first.get('input')!r:.100}; {expected}")


async def _ours(request: Request, error: Exception) -> Response:
    if isinstance(error, (Busy, Stopped)):
        return _error_response(503, str(error), {"Retry-After": "1"})
    if isinstance(error, Refused):
        return _error_response(error.status, str(error))
    if isinstance(error, NoItem):
        return _error_response(404, str(error))
    if isinstance(error, InvalidInput):
        return _error_response(422, str(error))
    print(f"embex serve: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    if isinstance(error, StoreError):  # its message may reveal where the index is
        return _error_response(
            503, "the index cannot be read; try again, or ask the server's administrator", {"Retry-After": "5"}
        )
    return _error_response(500, "the server cannot answer this request; its log says why")


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client is gone, so nobody reads this


async def _unexpected(request: Request, error: Exception) -> Response:
    return _error_response(500, "an internal error occurred; the server's log says more")
