"""Adding, relabelling, removing and undoing over real HTTP, and when they are refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.serve.conftest import Running, picture, serving
from app.serve.test_limits import TOKEN
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.index import Index, open_index

TOKENS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def editable(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("edited") / "index"
    shutil.copytree(place, folder)
    with serving(folder, edit=True, token=TOKEN) as server:
        yield server


@pytest.fixture
def index(editable: Running) -> Iterator[Index]:
    """The index as another process sees it."""
    with open_index(editable.service.settings.index) as opened:
        yield opened


def ask(server: Running, path: str, body: Any = None, content: bytes | None = None) -> httpx.Response:
    return httpx.post(server.url + path, json=body, content=content, headers=TOKENS, timeout=60)


def state(index: Index) -> dict[str, Any]:
    """Everything but the ids."""
    return {
        item.path: (item.label, dict(item.metadata), item.thumbnail, row.tobytes())
        for items, rows in index.batches(thumbnails=True)
        for item, row in zip(items, rows, strict=True)
    }


def test_every_change_is_undone_in_turn(editable: Running, index: Index) -> None:
    states = [state(index)]
    image = picture(5, 40)
    added = ask(editable, "/api/items?label=new&name=%3Cb%3E.png", content=image).json()
    (item,) = added["items"]
    assert (item["label"], item["width"], item["height"]) == ("new", 40, 40)
    assert Path(item["path"]).read_bytes() == image
    assert Path(item["path"]).parent == Path(editable.service.settings.index) / "uploads"
    assert index.get(item["id"]).metadata["name"] == "<b>.png"
    found = httpx.post(f"{editable.url}/api/search?k=1", content=image, headers=TOKENS, timeout=60).json()["matches"][0]
    assert (found["id"], round(found["similarity"], 4)) == (item["id"], 1)
    assert editable.get(item["thumbnail"], headers=TOKENS).content[:4] == b"\x89PNG"
    states.append(state(index))
    ask(editable, "/api/relabel", {"ids": [1, 2, item["id"]], "label": "other"})
    assert {index.get(id).label for id in (1, 2, item["id"])} == {"other"}
    states.append(state(index))
    assert ask(editable, "/api/remove", {"ids": [1, 1, item["id"]]}).json()["done"] == "removed 2 images"
    assert index.count() == 31
    listed = editable.get("/api/changes", headers=TOKENS).json()["changes"]
    assert listed == ["removed 2 images", "labelled 3 images as other", "added <b>.png"]
    for wanted in reversed(states):
        assert ask(editable, "/api/undo").status_code == 200
        assert state(index) == wanted
    assert not Path(item["path"]).exists()
    assert ask(editable, "/api/undo").status_code == 409


def test_what_somebody_else_changed_since_is_not_undone(editable: Running, index: Index) -> None:
    ask(editable, "/api/relabel", {"ids": [5], "label": "mine"})
    for items, rows in index.batches({"path": index.get(5).path}, thumbnails=True):
        index.add([type(items[0])(items[0].path, "theirs", items[0].metadata, items[0].thumbnail)], rows)
    refused = ask(editable, "/api/undo")
    assert (refused.status_code, "can no longer be undone" in refused.json()["detail"]) == (409, True)
    assert index.get(5).label == "theirs"
    assert editable.get("/api/changes", headers=TOKENS).json()["changes"] == []


def test_while_another_process_writes_nothing_is_changed(editable: Running, index: Index) -> None:
    before, files = state(index), sorted(Path(editable.service.settings.index).glob("uploads/*"))
    with index.loading("another"):
        for path, body, content in (
            ("/api/remove", {"ids": [3]}, None),
            ("/api/relabel", {"ids": [3], "label": "x"}, None),
            ("/api/items", None, picture(9)),
        ):
            refused = ask(editable, path, body, content)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            assert "another process is writing" in refused.json()["detail"]
    assert state(index) == before
    assert sorted(Path(editable.service.settings.index).glob("uploads/*")) == files
    assert ask(editable, "/api/remove", {"ids": [3]}).status_code == 200
    assert ask(editable, "/api/undo").status_code == 200
    assert state(index) == before


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/remove", {"ids": [9999]}, 404),
        ("/api/remove", {"ids": []}, 422),
        ("/api/relabel", {"ids": [1]}, 422),
        ("/api/relabel", {"ids": [9999], "label": "a"}, 404),
        ("/api/items", "no image", 415),
    ],
)
def test_changes_that_cannot_be_made_are_refused_and_leave_no_trace(
    editable: Running, index: Index, path: str, body: Any, status: int
) -> None:
    before = state(index)
    refused = ask(editable, path, body)
    assert refused.status_code == status
    assert "index" not in refused.json()["detail"]  # where it is stays on the server
    assert state(index) == before
    assert ask(editable, "/api/undo").status_code == 409


def test_the_same_image_is_added_once(editable: Running, index: Index) -> None:
    assert ask(editable, "/api/items", content=picture(11)).status_code == 200
    assert ask(editable, "/api/items", content=picture(11)).status_code == 409
    assert ask(editable, "/api/undo").status_code == 200
    assert index.count() == 32


def test_only_with_the_token_and_only_where_it_is_allowed(editable: Running, running: Running) -> None:
    for path in ("/api/items", "/api/relabel", "/api/remove", "/api/undo"):
        assert httpx.post(editable.url + path, json={"ids": [1]}, timeout=60).status_code == 401
        assert httpx.post(running.url + path, json={"ids": [1]}, timeout=60).status_code in (404, 405)
    with pytest.raises(InvalidInput, match="--edit lets clients change the index; set EMBEX_TOKEN"):
        Settings("index", edit=True)
    with pytest.raises(InvalidInput, match="pass --uploads FOLDER"):
        Settings("postgresql://a/b", edit=True, token=TOKEN)
