"""The outermost ASGI middleware: rejects foreign requests, sets security headers and counts requests."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from embedding_expansion.app.serve.metrics import Metrics

#: The page may load scripts and styles from this server only, and show images of this server and its own uploads.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
#: Methods that are counted one by one. Clients can invent others, which are counted together.
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Guard:
    """Rejects requests that must not reach the application.

    On loopback without a token, the Host header must name this machine: this stops DNS rebinding, where the name of a
    foreign site resolves to this machine. Pages of other sites may neither send requests nor embed parts of this
    server.

    Args:
        app: the application. It sees paths without the prefix of a proxy, whether the proxy strips the prefix or not.
        metrics: counts every request.
        hosts: the accepted names in the Host header; None for any.
        root_path: the prefix under which a proxy serves the application; "" for none.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: set[str] | None, root_path: str = "") -> None:
        self._app, self._metrics, self._hosts, self._root_path = app, metrics, hosts, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500
        scope = self._below_root(scope)
        is_api = scope["path"].startswith(f"{self._root_path}/api/")

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store" if is_api else "no-cache")
            await send(message)

        refused = self._refusal(Headers(scope=scope))
        try:
            await (refused or self._app)(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.answered(method, route, status, time.perf_counter() - begun)

    def _below_root(self, scope: Scope) -> Scope:
        """The scope with the full path, as ASGI defines it. A proxy may have stripped the prefix."""
        root, path = self._root_path, scope["path"]
        if not root:
            return scope
        if path == root or path.startswith(f"{root}/"):
            return {**scope, "root_path": root, "path": path if path != root else f"{root}/"}
        return {**scope, "root_path": root, "path": root + path, "raw_path": root.encode() + scope["raw_path"]}

    def _refusal(self, headers: Headers) -> ASGIApp | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and _name(host) not in self._hosts:
            return JSONResponse(
                {"detail": "the Host header does not name this server; use localhost or 127.0.0.1"}, 421
            )
        if (origin is not None and _place(origin) != host) or _is_embedded_elsewhere(headers):
            return JSONResponse(
                {"detail": "a page of another site sent this request; open the page of this server"}, 403
            )
        return None


def _is_embedded_elsewhere(headers: Headers) -> bool:
    """Whether a page of another site embeds this resource. Following a link to this server is allowed."""
    site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
    return site in ("cross-site", "same-site") and mode != "navigate"


def _place(origin: str) -> str | None:
    """Host and port of an Origin header."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name(host: str) -> str | None:
    """The host name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
