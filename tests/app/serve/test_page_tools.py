"""What one does with images on the page, in a real browser: open, scroll, browse, filter, select, compare, edit."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.serve.browser import names, page_of, until
from app.serve.conftest import Running, item_of, serving, wait_for
from app.serve.test_limits import TOKEN
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.indexing import index_images
from embedding_expansion.retrieval.index import Item, open_index

READY = "!document.querySelector('[aria-busy=true]')"


@pytest.fixture(scope="module")
def tools(
    place: Path, embedder: Embedder, photos: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """An index that may be changed, with a year for each image, beside one of another model."""
    folder = tmp_path_factory.mktemp("tools")
    shutil.copytree(place, folder / "birds")
    with open_index(folder / "birds") as index:
        items = [item_of(path, path.parent.name) for path in photos]
        dated = [Item(one.path, one.label, {"year": 2000 + i % 4}, one.thumbnail) for i, one in enumerate(items)]
        index.add(dated, embedder.embed(photos))
    torch_seeded = Embedder.from_backbone("conv4", device="cpu")  # random weights, of a seed
    index_images(torch_seeded, [photos[0].parents[1]], folder / "other", labels="folder")
    with serving(folder / "birds", beside=str(folder / "other"), edit=True, token=TOKEN) as server:
        wait_for(lambda: server.get("/api/map", headers=TOKENS).json()["state"] == "ready")
        wait_for(lambda: len(server.get("/api/facts", headers=TOKENS).json()["facts"]) == 1)
        yield server


TOKENS = {"Authorization": f"Bearer {TOKEN}"}


def opened(chromium: Any, server: Running, query: str = "", **options: Any) -> Any:
    """A page whose tab has the token already."""
    return page_of(chromium, f"{server.url}/{query}", session={"token": TOKEN}, **options)


def answer(server: Running, route: str, **params: Any) -> Any:
    return server.get(route, params=params, headers=TOKENS).json()


def ids(page: Any, within: str = "#matches") -> list[int]:
    found: list[int] = page.locator(f"{within} .card").evaluate_all("all => all.map(one => Number(one.dataset.id))")
    return found


def downloaded(page: Any, button: str) -> bytes:
    with page.expect_download() as waiting:
        page.click(button)
    return Path(waiting.value.path()).read_bytes()


def test_the_lightbox_shows_originals_and_walks_by_arrow_keys(
    chromium: Any, tools: Running, photos: list[Path]
) -> None:
    width = "document.getElementById('lightbox-picture').naturalWidth"
    with opened(chromium, tools, "?item=1&k=3") as page:
        names(page)
        page.locator("#matches .card").first.hover()
        page.locator("#matches .open").first.click()
        until(page, f"{width} === 20")
        assert page.inner_text("#lightbox-place") == "1 of 3"
        shown = []
        for _ in range(3):
            shown.append(page.inner_text("#lightbox-facts").split(" · ")[0])
            page.keyboard.press("ArrowRight")
        until(page, "document.getElementById('lightbox-place').textContent.startsWith('4 of ')")  # more were loaded
        found = answer(tools, "/api/items/1/neighbours", k=4)["matches"]
        assert shown == [match["path"] for match in found[:3]]
        assert page.inner_text("#lightbox-facts").startswith(found[3]["path"])
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#lightbox-place").startswith("3 of ")
        page.keyboard.press("Escape")
        assert page.locator("#lightbox[open]").count() == 0
        until(page, f"document.activeElement.closest('li')?.dataset.id === '{found[2]['id']}'")
        page.locator("#matches .card").first.hover()
        page.locator("#matches .open").first.click()
        page.click("#lightbox-name")  # the label of the image
        until(page, f"{READY} && document.getElementById('answer-title').textContent.startsWith('4 images with')")


def test_results_grow_by_scrolling_until_all_are_there(chromium: Any, tools: Running) -> None:
    with opened(chromium, tools, "?item=1&k=12", viewport={"width": 700, "height": 300}) as page:
        names(page)
        assert len(ids(page)) == 12
        page.mouse.move(500, 150)
        page.mouse.wheel(0, 4000)
        until(page, "document.querySelectorAll('#matches .card').length === 31")
        assert ids(page) == [match["id"] for match in answer(tools, "/api/items/1/neighbours", k=31)["matches"]]
        assert page.locator("#more").is_hidden()


def test_labels_are_browsed_without_a_query_and_filters_narrow_what_is_there(chromium: Any, tools: Running) -> None:
    with opened(chromium, tools) as page:
        page.wait_for_selector("#meta:not([hidden])")
        assert page.locator("#labels option").count() == 8
        page.fill("#label", "class_3")
        until(
            page,
            f"{READY} && document.getElementById('answer-title').textContent === '4 images with the label class_3'",
        )
        assert names(page) == ["class_3"] * 4
        page.fill("#label", "SS_")
        until(page, "document.getElementById('answer-title').textContent === '32 images with “SS_” in the label'")
        page.fill("#path", "CLASS_1/")
        until(
            page,
            "document.getElementById('answer-title').textContent.startsWith('4 images with “SS_” in the label and')",
        )
        page.fill("#value", "2001")
        page.click("#meta-add")
        until(page, "document.getElementById('answer-title').textContent.startsWith('1 image ')")
        found = answer(tools, "/api/items", label_contains="ss_", path_contains="class_1/", meta="year=2001")
        assert ids(page) == [item["id"] for item in found["items"]]
        address = page.url
        page.locator("#meta-list button").click()
        until(page, "document.querySelectorAll('#matches .card').length === 4")
        page.goto(address)
        names(page)
        assert ids(page) == [item["id"] for item in found["items"]]
        page.fill("#label", "")
        page.fill("#path", "")
        page.locator("#meta-list button").click()
        until(page, "document.getElementById('answer').hidden && !document.getElementById('samples').hidden")


def test_images_are_selected_by_click_shift_and_drag_and_exported(
    chromium: Any, tools: Running, photos: list[Path]
) -> None:
    with opened(chromium, tools, "?browse=all") as page:
        names(page)
        cards = page.locator("#matches .card")
        paths = [item["path"] for item in answer(tools, "/api/items", n=20)["items"]]
        cards.nth(1).hover()
        cards.nth(1).locator(".pick").click()
        cards.nth(4).locator("a").click(modifiers=["Shift"])
        cards.nth(6).locator("a").click()  # while images are selected, a click selects
        cards.nth(2).locator("a").click()
        assert page.inner_text("#selection-count") == "4 images selected"
        wanted = [paths[place] for place in (1, 3, 4, 6)]
        assert sorted(downloaded(page, "#export-paths").decode().splitlines()) == sorted(wanted)
        assert downloaded(page, "#export-csv").startswith(b"path,label,year")
        with zipfile.ZipFile(io.BytesIO(downloaded(page, "#export-zip"))) as zipped:
            assert len(zipped.namelist()) == 5
        page.keyboard.press("Escape")
        assert page.locator("#selection").is_hidden()
        first, last = (cards.nth(place).bounding_box() for place in (0, 2))
        page.mouse.move(first["x"] + 60, first["y"] + 60)
        page.mouse.down()
        page.mouse.move(last["x"] + 60, last["y"] + 80, steps=5)
        page.mouse.up()
        assert page.inner_text("#selection-count") == "3 images selected"
        assert page.locator("#band").count() == 0
        assert "browse=all" in page.url  # the drag was no click


def test_a_selection_and_several_files_are_one_query(chromium: Any, tools: Running, photos: list[Path]) -> None:
    with opened(chromium, tools, "?browse=all&k=5") as page:
        names(page)
        for place in (0, 1):
            page.locator("#matches .card").nth(place).hover()
            page.locator("#matches .pick").nth(place).click()
        chosen = ids(page)[:2]
        page.click("#selection-search")
        until(page, f"{READY} && document.querySelectorAll('#parts li').length === 2")
        names(page)
        assert not set(ids(page)) & set(chosen)
        page.set_input_files("#another", photos[20])
        until(page, f"{READY} && document.querySelectorAll('#parts li').length === 3")
        page.locator("#parts button").first.click()
        until(page, f"{READY} && document.querySelectorAll('#parts li').length === 2")
        page.set_input_files("#file", [photos[3], photos[9]])
        until(page, f"{READY} && location.search.includes('several=u')")
        assert page.inner_text("#asked-name") == "2 images"
        names(page)
        assert len(ids(page)) == 5


def test_a_part_of_the_query_is_searched_for(
    chromium: Any, tools: Running, photos: list[Path], embedder: Embedder, tmp_path: Path
) -> None:
    left, right = (Image.open(photo).resize((400, 400), 0) for photo in (photos[8], photos[24]))
    both = Image.new("RGB", (800, 400))
    both.paste(left, (0, 0))
    both.paste(right, (400, 0))
    both.save(tmp_path / "both.png")
    with opened(chromium, tools, "?k=3") as page:
        page.set_input_files("#file", tmp_path / "both.png")
        names(page)
        page.click("#crop-start")
        until(page, "document.getElementById('crop-picture').naturalWidth === 800")
        area = page.locator("#crop-area").bounding_box()
        x, y, width, height = (area[side] for side in ("x", "y", "width", "height"))
        page.mouse.move(x + width / 2, y + 1)
        page.mouse.down()
        page.mouse.move(x + width - 1, y + height - 1, steps=4)
        page.mouse.up()
        page.click("#crop button[value=search]")
        until(page, f"{READY} && document.getElementById('asked-name').textContent === 'part of both.png'")
        assert names(page)[0] == photos[24].parent.name
        page.click("#crop-start")
        until(page, "document.querySelector('#crop[open]')")
        before = page.evaluate("document.getElementById('crop-box').style.left")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.getElementById('crop-box').style.left") != before
        page.keyboard.press("Escape")


def test_duplicates_are_shown_from_a_similarity_on(chromium: Any, tools: Running) -> None:
    with opened(chromium, tools, "?copies=0.98") as page:
        until(page, "document.getElementById('copies-hint').textContent.includes('similar')")
        found = answer(tools, "/api/duplicates", similarity=0.98)
        assert ids(page, "#copies-list") == [item["id"] for group in found["listed"] for item in group["items"]]
        page.locator("#similarity").fill("0.8")
        until(page, "location.search === '?copies=0.8' && document.querySelectorAll('#copies-list > li').length > 0")
        page.click("#copies-select")
        groups, cards = page.locator("#copies-list > li").count(), len(ids(page, "#copies-list"))
        assert page.inner_text("#selection-count").startswith(f"{cards - groups} image")


def test_the_number_of_clusters_is_set_and_the_map_follows(chromium: Any, tools: Running) -> None:
    with opened(chromium, tools) as page:
        until(page, "document.querySelectorAll('#clusters li a').length === 8")
        assert "as many as labels" in page.inner_text("#clusters-hint")
        page.fill("#groups", "3")
        page.keyboard.press("Enter")
        until(page, "document.querySelectorAll('#clusters li a').length === 3")
        page.select_option("#colour", "cluster")
        until(page, "document.querySelectorAll('#legend button').length === 3")
        page.locator("#clusters li a").nth(2).click()
        names(page)
        assert "groups=3" in page.url
        listed = answer(tools, "/api/clusters/2", k=3, n=20)["items"]
        assert ids(page) == [item["id"] for item in listed]
        page.reload()
        names(page)
        assert ids(page) == [item["id"] for item in listed]


def test_every_label_is_in_the_legend_and_leads_to_its_images(chromium: Any, tools: Running) -> None:
    with opened(chromium, tools) as page:
        until(page, "document.querySelectorAll('#legend button').length === 8")
        page.locator("#legend button", has_text="class_7").click()
        page.click("#legend-browse")
        assert names(page) == ["class_7"] * 4


def test_two_models_are_compared_side_by_side(chromium: Any, tools: Running) -> None:
    with opened(chromium, tools, "?item=9&k=6") as page:
        names(page)
        page.check("#collection")
        until(page, f"{READY} && document.querySelectorAll('#matches-beside .card').length === 6")
        path = answer(tools, "/api/items/9")["path"]
        (twin,) = answer(tools, "/api/items", path=path, collection=1)["items"]
        other = answer(tools, f"/api/items/{twin['id']}/neighbours", k=6, collection=1)["matches"]
        own = answer(tools, "/api/items/9/neighbours", k=6)["matches"]
        assert ids(page, "#matches-beside") == [match["id"] for match in other]
        assert ids(page) == [match["id"] for match in own]
        shared = len({match["path"] for match in own} & {match["path"] for match in other})
        labels = [sum(match["label"] == twin["label"] for match in found) for found in (own, other)]
        assert page.inner_text("#agreement") == (
            f"{shared} of the first 6 are the same images; {labels[0]} and {labels[1]} have the label {twin['label']}."
        )
        page.locator("#matches-beside .card a").nth(1).click()  # the same image of the first collection
        until(
            page,
            f"{READY} && document.getElementById('asked-path').textContent.startsWith({json.dumps(other[1]['path'])})",
        )
        assert "collection=both" in page.url
        page.uncheck("#collection")
        until(page, "document.getElementById('matches-beside').parentElement.hidden")


def test_images_are_added_relabelled_removed_and_every_change_undone(
    chromium: Any, tools: Running, tmp_path: Path
) -> None:
    Image.linear_gradient("L").save(tmp_path / "new one.png")
    with opened(chromium, tools) as page:
        page.wait_for_selector("#undo:disabled")
        page.set_input_files("#file", tmp_path / "new one.png")
        names(page)
        page.click("#add")
        page.fill("#new-label", "fresh")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('done').textContent === 'Added new one.png.'")
        until(page, "document.getElementById('facts').textContent.startsWith('33 images')")
        (item,) = answer(tools, "/api/items", label="fresh")["items"]
        page.goto(f"{tools.url}/?browse=all&k=40")
        names(page)
        card = page.locator(f"#matches .card[data-id='{item['id']}']")
        card.hover()
        card.locator(".pick").click()
        page.click("#relabel")
        page.fill("#new-label", "")
        page.keyboard.press("Enter")
        until(page, f"{READY} && document.getElementById('done').textContent === 'Labelled 1 image without a label.'")
        until(page, "[...document.querySelectorAll('#matches .name')].at(-1).textContent === 'no label'")
        card.hover()
        card.locator(".pick").click()
        page.click("#remove")
        until(page, "document.querySelectorAll('#matches .card').length === 32")
        for left, undone in (
            (33, "removed 1 image"),
            (33, "labelled 1 image without a label"),
            (32, "added new one.png"),
        ):
            assert page.get_attribute("#undo", "title") == f"undo: {undone}"
            page.click("#undo")
            until(page, f"document.getElementById('done').textContent === 'Undone: {undone}.'")
            until(page, f"{READY} && document.querySelectorAll('#matches .card').length === {left}")
        page.wait_for_selector("#undo:disabled")
        assert page.get_attribute("#undo", "title").startswith("nothing to undo. The server keeps the changes since")


def test_after_a_failed_upload_nothing_of_the_earlier_query_is_left(
    chromium: Any, running: Running, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "no.png").write_bytes(b"no image")
    with page_of(chromium, running.url, errors=1) as page:
        page.set_input_files("#file", photos[0])
        names(page)
        page.set_input_files("#file", tmp_path / "no.png")
        page.wait_for_selector("#problem:not([hidden])")
        for part in ("#asked", "#answer", "#asked-tools"):
            assert page.locator(part).is_hidden(), part
        assert ids(page) == []


def test_an_empty_collection_says_how_to_fill_it(chromium: Any, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "empty")
    with open_index(tmp_path / "empty") as index:
        index.remove({"path_prefix": ""})
    with serving(tmp_path / "empty") as server, page_of(chromium, server.url) as page:
        page.wait_for_selector("#empty:not([hidden])")
        assert re.search(r"embex add empty FOLDER", page.inner_text("#empty-advice"))
        for part in ("#samples", "#clusters", "#map"):
            assert page.locator(part).is_hidden(), part


def test_a_field_for_words_is_there_where_the_model_has_a_text_tower(
    chromium: Any, photos: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("open_clip", reason="the extra text is not installed")
    from inference.test_text import PAIRS, weights_of

    weights, _ = weights_of("tiny-clip", tmp_path, PAIRS["tiny-clip"])
    index_images(
        Embedder.from_backbone("open_clip/tiny-clip", weights=weights, device="cpu"), photos, tmp_path / "index"
    )
    with serving(tmp_path / "index") as server, page_of(chromium, server.url) as page:
        page.wait_for_selector("#ask-text:not([hidden])")
        page.fill("#words", "a red bird")
        page.keyboard.press("Enter")
        names(page)
        assert page.inner_text("#answer-title") == "Closest to “a red bird”"
        found = server.get("/api/text", params={"text": "a red bird", "k": 20}).json()
        assert ids(page) == [match["id"] for match in found["matches"]]
        assert found["known"] is None
        page.reload()
        assert len(names(page)) == 20


def test_without_a_text_tower_there_is_no_such_field(chromium: Any, running: Running) -> None:
    with page_of(chromium, running.url) as page:
        page.wait_for_selector("#samples li a")
        assert page.locator("#ask-text").is_hidden()
    assert running.get("/api/text?text=bird").status_code == 422
