"""A real index with a model, and a real server over it, in this process or in one of its own."""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from embedding_expansion.app.serve import address, listener
from embedding_expansion.app.serve.application import application
from embedding_expansion.app.serve.connections import Bounds
from embedding_expansion.app.serve.service import Service
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.export import export
from embedding_expansion.inference.gallery import NOTE
from embedding_expansion.inference.thresholds import thresholds_json
from embedding_expansion.retrieval.index import Index, Item, create_index
from embedding_expansion.retrieval.threshold import Threshold

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MUST_RUN = "browser" in os.environ.get("EMBEX_MUST_RUN", "").split()


@dataclass(frozen=True)
class Running:
    """A server that answers at a URL."""

    url: str
    service: Service
    server: uvicorn.Server

    def connections(self) -> int:
        return len(self.server.server_state.connections)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def search(self, image: bytes, **options: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/api/search", content=image, timeout=60, **options)


def item_of(path: Path, label: str | None) -> Item:
    with Image.open(path) as image:
        size = {"width": image.width, "height": image.height}
        content = io.BytesIO()
        image.convert("RGB").save(content, "PNG")
    return Item(str(path.absolute()), label, size, content.getvalue())


@pytest.fixture(scope="session")
def model(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(trained, "safetensors", folder)
    return folder


@pytest.fixture(scope="session")
def embedder(model: Path) -> Embedder:
    return Embedder.load(model, device="cpu")


@pytest.fixture(scope="session")
def photos(photographs: Path) -> list[Path]:
    """All 32 files; the name of the folder is the label."""
    return sorted(photographs.rglob("*.png"))


def fill(place: str | Path, model: Path, embedder: Embedder, photos: list[Path]) -> Index:
    """An index of photographs, in which an image is known from a similarity of 0.9 on."""
    index = create_index(place, dimensions=embedder.dimensions)
    for file in model.iterdir():
        index.files.put(file)
    index.add([item_of(path, path.parent.name) for path in photos], embedder.embed(photos))
    threshold = Threshold(0.9, "known or unknown", "precision", 0.99, 0.993, 0.81, 40, 250)
    index.set_note(NOTE, thresholds_json({"known or unknown": threshold}))
    return index


@pytest.fixture(scope="session")
def place(model: Path, embedder: Embedder, photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index that no test changes."""
    folder = tmp_path_factory.mktemp("served") / "birds"
    fill(folder, model, embedder, photos).close()
    return folder


@contextmanager
def serving(
    place: str | Path,
    *,
    prepare: Callable[[Service], object] = lambda service: None,
    bounds: Bounds = Bounds(),  # noqa: B008
    **options: Any,
) -> Iterator[Running]:
    """Serves an index over real HTTP from a thread.

    Args:
        place: of the index.
        prepare: is given the service before it answers, to slow it down or break it.
        bounds: of its connections.
        options: of `Settings`.
    """
    settings = Settings(str(place), **{"port": 0, "device": "cpu", **options})
    with ExitStack() as stack:
        held = stack.enter_context(closing(address.bind(settings.host, settings.port)))
        service = stack.enter_context(Service.open(settings))
        prepare(service)
        server = listener(application(service, settings, is_loopback=address.is_loopback(held)), bounds)
        held.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
        thread.start()
        try:
            yield Running(address.url("127.0.0.1", held) + settings.root_path, service, server)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="package")
def running(place: Path) -> Iterator[Running]:
    """It ends with these tests, since its threads would disturb Hypothesis in others; see test_schema.py."""
    with serving(place) as server:
        wait_for(lambda: server.get("/api/map").json()["state"] == "ready")
        yield server


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Until it holds; an error where it never does."""
    waited = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        waited.wait(0.05)
    raise AssertionError("waited in vain")


def picture(seed: int, side: int = 20, kind: str = "PNG") -> bytes:
    """An image file of noise."""
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser; without one the tests skip, or fail where EMBEX_MUST_RUN says that they must not.

    It ends with the module: while Playwright is there, no other test could run an event loop.
    """
    if CHROMIUM is None:
        if MUST_RUN:
            pytest.fail("there is no Chromium, and EMBEX_MUST_RUN names the browser; install chromium")
        pytest.skip("there is no Chromium on this machine to test the page in")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
