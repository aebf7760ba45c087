"""Behind a reverse proxy that shows the server under a prefix, whether it strips that or passes it on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from app.serve.browser import names, page_of, until
from app.serve.conftest import Running, picture, serving
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.client import Client

PREFIX = "/photos/birds"


@contextmanager
def proxy(target: str, *, strips: bool) -> Iterator[str]:
    """A real one, which passes on what is below `PREFIX`; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(PREFIX):
                self.send_error(404, "not below the prefix")
                return
            path = (self.path.removeprefix(PREFIX) or "/") if strips else self.path
            path = path if path.startswith("/") else f"/{path}"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            passed = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            answer = client.request(self.command, target + path, content=body, headers=passed, timeout=60)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET  # noqa: N815  # its name is the method's

        def log_message(self, *given: Any) -> None:
            pass

    with httpx.Client() as client, ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def prefixed(place: Path) -> Iterator[Running]:
    with serving(place, root_path=PREFIX) as server:
        yield server


@pytest.fixture(scope="module", params=[True, False], ids=["strips", "passes on"])
def outside(request: pytest.FixtureRequest, prefixed: Running) -> Iterator[str]:
    with proxy(prefixed.url.removesuffix(PREFIX), strips=request.param) as url:
        yield url + PREFIX


def test_the_api_and_what_its_answers_lead_to_are_below_the_prefix(outside: str, photos: list[Path]) -> None:
    answer = httpx.post(f"{outside}/api/search?k=3", content=photos[3].read_bytes(), timeout=60)
    found = answer.json()["matches"]
    assert len(found) == 3
    assert answer.headers["cache-control"] == "no-store"
    lists = [found]
    for path in (f"/api/items/{found[0]['id']}/neighbours", "/api/samples", "/api/clusters/0"):
        got = httpx.get(outside + path, timeout=60).json()
        lists.append(got.get("matches") or got.get("items"))
    lists.append([httpx.get(f"{outside}/api/items/1", timeout=60).json()])
    for thumbnail in {one["thumbnail"] for items in lists if items for one in items}:
        assert thumbnail.startswith(f"{PREFIX}/api/items/")
        assert httpx.get(urljoin(outside, thumbnail), timeout=60).headers["content-type"] == "image/png"
    assert httpx.get(f"{outside}/api/nothing", timeout=60).status_code == 404


@pytest.mark.parametrize("end", ["", "/"])
def test_the_page_finds_its_parts(outside: str, end: str) -> None:
    page = httpx.get(outside + end, timeout=60)
    assert page.status_code == 200
    for part in ("main.js", "style.css", "icon.svg"):
        assert f'="{PREFIX}/{part}"' in page.text
        assert httpx.get(f"{outside}/{part}", timeout=60).status_code == 200


def test_the_schema_says_where_the_api_is(outside: str, running: Running) -> None:
    assert httpx.get(f"{outside}/openapi.json", timeout=60).json()["servers"] == [{"url": PREFIX}]
    assert "servers" not in running.get("/openapi.json").json()


def test_the_client_asks_below_the_prefix(outside: str, photos: list[Path]) -> None:
    client = Client(outside)
    first = client.search(photos[3], k=1).matches[0]
    assert first.path == str(photos[3])
    assert len(client.neighbours(first.id, k=4).matches) == 4


@pytest.mark.parametrize("path", ["", "/"])
def test_the_page_works_in_a_browser(chromium: Any, outside: str, photos: list[Path], path: str) -> None:
    with page_of(chromium, outside + path) as page:
        page.wait_for_selector("#samples li a")
        page.set_input_files("#file", photos[9])
        assert len(names(page)) == 20
        until(page, "document.querySelector('#matches img').naturalWidth === 20")
        page.locator("#matches a").first.click()
        page.wait_for_url(lambda url: url.startswith(f"{outside}{path}?item="))
        names(page)
        page.reload()
        names(page)


def test_the_page_works_below_a_prefix_that_the_server_knows_nothing_of(
    chromium: Any, running: Running, photos: list[Path]
) -> None:
    with proxy(running.url, strips=True) as url, page_of(chromium, f"{url}{PREFIX}/") as page:
        page.set_input_files("#file", photos[9])
        assert len(names(page)) == 20
        until(page, "document.querySelector('#matches img').naturalWidth === 20")


@pytest.mark.parametrize("given", ["photos", "/photos/", "/a//b", "/a/../b", "/a?b", "/a b", "/<b>"])
def test_a_prefix_that_is_no_path_is_refused(given: str) -> None:
    with pytest.raises(InvalidInput, match=r"--root_path is .*; pass a path such as /images"):
        Settings("birds", root_path=given)


def test_requests_are_counted_by_their_route_and_not_by_the_prefix(prefixed: Running) -> None:
    assert prefixed.search(picture(0)).status_code == 200
    assert 'route="/api/search",status="200"' in prefixed.get("/metrics").text
