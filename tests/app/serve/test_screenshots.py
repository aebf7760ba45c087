"""Pictures of the page for its documentation, drawn where EMBEX_SCREENSHOTS names a folder; the images are glyphs."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.serve.browser import names, page_of, until
from app.serve.conftest import Running, serving, wait_for
from embedding_expansion.app.cli import main
from embedding_expansion.data.glyphs import open_glyphs
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.export import export
from embedding_expansion.inference.gallery import NOTE
from embedding_expansion.inference.thresholds import thresholds_json
from embedding_expansion.retrieval.index import Item, create_index
from embedding_expansion.retrieval.threshold import Threshold

FOLDER = os.environ.get("EMBEX_SCREENSHOTS")
STEPS = os.environ.get("EMBEX_SCREENSHOTS_STEPS", "300")
pytestmark = pytest.mark.skipif(not FOLDER, reason="EMBEX_SCREENSHOTS names no folder to draw the page into")
VIEWS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1200, "height": 760}},
    "dark": {"viewport": {"width": 1200, "height": 760}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 780}, "device_scale_factor": 2, "is_mobile": True},
}


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The test letters, none of which the model was trained on. The threshold is made up."""
    folder = tmp_path_factory.mktemp("glyphs")
    assert main(["train", "--steps", STEPS, "--device", "cpu", "--out", str(folder / "run")]) == 0
    export(folder / "run", "safetensors", folder / "model")
    letters = open_glyphs().test
    images = [np.repeat(letters.load(i).permute(1, 2, 0).numpy(), 3, axis=2) for i in range(len(letters))]
    vectors = Embedder.load(folder / "model", device="cpu").embed(images)
    with create_index(folder / "letters", dimensions=vectors.shape[1]) as index:
        for file in (folder / "model").iterdir():
            index.files.put(file)
        index.add([_item(letters.class_names[int(c)], i, images[i]) for i, c in enumerate(letters.labels)], vectors)
        threshold = Threshold(0.7, "known or unknown", "precision", 0.99, 0.99, 0.8, 40, 250)
        index.set_note(NOTE, thresholds_json({"known or unknown": threshold}))
    with serving(folder / "letters") as server:
        wait_for(lambda: server.get("/api/map").json()["state"] == "ready", seconds=600)
        yield server


def _item(label: str, number: int, pixels: Any) -> Item:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    path = f"/data/letters/{label.replace(' ', '-')}/{number:04d}.png"
    return Item(path, label, {"width": 32, "height": 32}, content.getvalue())


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_is_drawn(chromium: Any, glyphs: Running, view: str) -> None:
    folder = Path(str(FOLDER))
    folder.mkdir(parents=True, exist_ok=True)
    with page_of(chromium, f"{glyphs.url}/?item=203&k=24", **VIEWS[view]) as page:
        names(page)
        page.locator("#matches a").nth(3).click()
        until(page, "document.querySelectorAll('#trail li').length === 2")
        names(page)
        until(page, "document.getElementById('map-state').textContent.includes('t-SNE')")
        page.mouse.move(0, 0)
        page.evaluate("for (const image of document.images) image.loading = 'eager'")
        until(page, "[...document.images].every(one => one.complete)")
        page.evaluate("scrollTo(0, 0)")
        drawn = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    assert len(drawn.getcolors(2**24) or []) > 100  # it is not blank
    drawn.save(folder / f"serve-{view}.png", optimize=True)
