"""The page in a real browser: upload, walk, map, keyboard alone, a phone's width, the token, and what it says aloud."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.serve.browser import focused, names, page_of, until
from app.serve.conftest import Running, fill, item_of, picture, serving
from app.serve.test_limits import TOKEN
from embedding_expansion.app.serve import watching
from embedding_expansion.app.serve.collection_map import CollectionMap
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.gallery import NOTE
from embedding_expansion.inference.thresholds import thresholds_json
from embedding_expansion.retrieval.index import open_index
from embedding_expansion.retrieval.threshold import Threshold

WIDTH = "image => image.decode().then(() => image.naturalWidth)"


def closest(running: Running, photo: Path, **options: Any) -> list[str]:
    return [match["label"] for match in running.search(photo.read_bytes(), params=options).json()["matches"]]


def first_id(running: Running, photo: Path) -> int:
    return int(running.search(photo.read_bytes(), params={"k": 1}).json()["matches"][0]["id"])


def test_an_image_is_uploaded_and_the_closest_are_shown(chromium: Any, running: Running, photos: list[Path]) -> None:
    with page_of(chromium, running.url) as page:
        page.set_input_files("#file", photos[9])
        assert names(page) == closest(running, photos[9], k=20)
        assert focused(page) == "answer"
        assert "Known" in page.inner_text("#verdict")
        assert page.locator("#matches img").first.evaluate(WIDTH) == 20
        assert page.inner_text("#status").startswith("20 images; the closest is class_2, similarity 1.00")
        page.locator("#k").fill("3")
        until(page, "document.querySelectorAll('#matches li').length === 3")
        page.locator("#label").fill("class_5")
        until(page, "document.querySelector('#matches .name').textContent === 'class_5'")
        assert names(page) == ["class_5"] * 3
        assert "k=3" in page.url
        assert "label=class_5" in page.url


def test_images_are_also_pasted_and_dropped(chromium: Any, running: Running, photos: list[Path]) -> None:
    give = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], `${kind}.png`, {type: "image/png"}));
        const made = kind === "paste" ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true})
            : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
        document.body.dispatchEvent(made);
    }"""
    with page_of(chromium, running.url) as page:
        for kind, photo in (("paste", photos[0]), ("drop", photos[30])):
            page.evaluate(give, [kind, list(photo.read_bytes())])
            until(page, f"document.getElementById('asked-name').textContent === '{kind}.png'")
            assert names(page) == closest(running, photo, k=20)


def test_a_walk_from_neighbour_to_neighbour_leaves_a_trail_and_the_browser_goes_back(
    chromium: Any, running: Running, photos: list[Path]
) -> None:
    with page_of(chromium, running.url) as page:
        page.set_input_files("#file", photos[0])
        start = names(page)
        page.locator("#matches a").nth(1).click()
        page.wait_for_url("**/?item=*")
        second = names(page)
        page.locator("#matches a").nth(2).click()
        until(page, "document.querySelectorAll('#trail li').length === 3")
        assert page.locator("#trail [aria-current=page]").count() == 1
        page.go_back()
        until(page, "document.querySelectorAll('#trail li').length === 2")
        assert names(page) == second
        page.go_back()
        until(page, "document.getElementById('asked-name').textContent === '0.png'")
        assert names(page) == start
        page.go_forward()
        until(page, "document.querySelectorAll('#trail li').length === 2")
        page.locator("#trail a").first.click()
        until(page, "document.getElementById('asked-name').textContent === '0.png'")
        assert names(page) == start
        page.go_back()
        page.wait_for_url("**/?item=*")
        page.reload()
        assert names(page) == second


def test_a_search_can_be_linked_to(chromium: Any, running: Running, photos: list[Path]) -> None:
    id = first_id(running, photos[4])
    expected = running.get(f"/api/items/{id}/neighbours", params={"k": 5, "qe": 2}).json()["matches"]
    with page_of(chromium, f"{running.url}/?item={id}&k=5&qe=2") as page:
        assert names(page) == [match["label"] for match in expected]
        assert (page.input_value("#k"), page.input_value("#qe")) == ("5", "2")
        assert page.locator("#matches .same").count() == [m["label"] for m in expected].count("class_1")


def test_the_map_is_searched_from_by_pointer_and_by_keyboard(chromium: Any, running: Running) -> None:
    with page_of(chromium, running.url) as page:
        until(page, "document.getElementById('map-state').textContent.includes('t-SNE')")
        drawn = running.get("/api/map").json()
        box = page.locator("#canvas").bounding_box()
        side = box["width"]
        x, y = (side / 2 + sign * (drawn[axis][3] - 0.5) * (side - 32) for axis, sign in (("x", 1), ("y", -1)))
        page.locator("#canvas").hover(position={"x": x, "y": y})
        shown = page.inner_text("#tip span")
        page.locator("#canvas").click(position={"x": x, "y": y})
        page.wait_for_url("**/?item=*")
        names(page)
        assert page.inner_text("#asked-name") == shown
        asked = page.url
        page.locator("#canvas").focus()
        for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"):
            page.keyboard.press(key)
            aloud = page.inner_text("#pointed")
            if aloud.split("image ")[1] not in asked.split("item="):
                break
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: url != asked)
        names(page)
        assert page.inner_text("#asked-name") == aloud.split(",")[0]
        page.select_option("#colour", "cluster")
        assert page.locator("#legend button").first.inner_text() == "cluster 1"
        page.locator("#legend button").first.click()
        assert page.locator("#legend [aria-pressed=true]").count() == 1


def test_clusters_are_browsed_and_searched_from(chromium: Any, running: Running) -> None:
    with page_of(chromium, running.url) as page:
        page.locator("#clusters li a").first.click()
        names(page)
        first = running.get("/api/clusters/0").json()
        assert page.inner_text("#answer-title").startswith(
            f"Cluster 1, mostly {first['label']}: {first['size']} images"
        )
        page.locator("#matches a").first.click()
        page.wait_for_url("**/?item=*")
        names(page)
        assert page.locator("#trail a").inner_text() == "Cluster 1"


def test_a_page_that_is_opened_while_the_map_is_computed_gets_it_and_the_clusters(
    chromium: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, original = threading.Event(), watching.compute_maps

    def late(*given: Any) -> Iterator[CollectionMap]:
        go_on.wait(60)
        yield from original(*given)

    monkeypatch.setattr(watching, "compute_maps", late)
    with serving(place) as server, page_of(chromium, server.url) as page:
        page.wait_for_selector("#samples li a")
        assert page.inner_text("#clusters-hint") == "being computed…"
        go_on.set()
        page.wait_for_selector("#clusters li a")
        page.wait_for_selector("#legend button")
        until(page, "document.getElementById('facts').textContent.includes('8 labels')")


def test_an_unknown_image_is_said_to_be_unknown(chromium: Any, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "index")
    strict = Threshold(0.99999, "known or unknown", "precision", 0.99, 0.993, 0.81, 40, 250)
    with open_index(tmp_path / "index") as index:
        index.set_note(NOTE, thresholds_json({"known or unknown": strict}))
    (tmp_path / "unknown.jpg").write_bytes(picture(0, kind="JPEG"))
    with serving(tmp_path / "index") as server, page_of(chromium, server.url) as page:
        page.set_input_files("#file", tmp_path / "unknown.jpg")
        names(page)
        assert page.inner_text("#verdict").startswith(
            "Unknown: no image in the collection reaches the calibrated threshold"
        )
        assert page.inner_text("#status").startswith("Unknown. ")


def test_what_is_no_image_is_told_and_the_next_search_clears_it(
    chromium: Any, running: Running, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "<b>no<b>.jpg").write_bytes(b"no image")
    with page_of(chromium, running.url, errors=1) as page:
        page.set_input_files("#file", tmp_path / "<b>no<b>.jpg")
        page.wait_for_selector("#problem:not([hidden])")
        assert page.inner_text("#problem").startswith("This is not an image in an accepted format")
        assert page.locator("b", has_text="no").count() == 0
        page.set_input_files("#file", photos[0])
        assert names(page) == closest(running, photos[0], k=20)
        assert page.locator("#problem").is_hidden()


def test_everything_is_reached_with_the_keyboard_alone(chromium: Any, running: Running) -> None:
    with page_of(chromium, running.url) as page:
        page.wait_for_selector("#samples li a")
        page.wait_for_selector("#legend button")
        reached = []
        for _ in range(200):
            page.keyboard.press("Tab")
            at = page.evaluate(
                "(e => [e.id || e.closest('section, header, nav')?.id || e.className, "
                "getComputedStyle(e).outlineStyle])(document.activeElement)"
            )
            if at[0] == "canvas":
                break
            reached.append(at[0])
            assert at[1] != "none" or at[0] == "file", at  # of the file it is the button beside it that shows the focus
        assert reached[0] == "skip"
        for part in ("file", "k", "qe", "label", "others", "samples", "clusters", "colour", "closer"):
            assert part in reached, part
        page.locator("#samples a").first.focus()
        page.keyboard.press("Enter")
        names(page)
        assert focused(page) == "answer"
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        until(page, "document.querySelectorAll('#trail li').length === 2")


def sides_of(page: Any, selector: str) -> list[float]:
    """The shorter side of each element."""
    sides: list[float] = page.locator(selector).evaluate_all(
        "all => all.map(one => Math.min(one.getBoundingClientRect().height, one.getBoundingClientRect().width))"
    )
    return sides


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark", "reduced_motion": "reduce"}])
def test_on_a_phone_nothing_is_cut_off_and_targets_are_large_enough(
    chromium: Any, running: Running, photos: list[Path], options: dict[str, str]
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, **options}
    with page_of(chromium, running.url, **phone) as page:
        page.wait_for_selector("#legend button")
        targets = "#samples a, #choose, #others, #closer, #farther, #colour, #legend button"
        assert min(sides_of(page, targets)) >= 28
        page.set_input_files("#file", photos[12])
        names(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.locator("#matches a").first.click()
        until(page, "document.querySelectorAll('#trail li').length === 2")
        assert min(sides_of(page, "#matches a, #trail a, #choose, .pick, .open")) >= 28
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(19, 21, 24)" if options else "rgb(255, 255, 255)")
        if options:
            assert page.evaluate("getComputedStyle(document.querySelector('.cards')).transitionDuration") == "0s"


def test_long_labels_make_a_phones_page_no_wider(
    chromium: Any, model: Path, embedder: Embedder, photos: list[Path], tmp_path: Path
) -> None:
    with fill(tmp_path / "index", model, embedder, photos) as index:
        long = [item_of(path, f"{path.parent.name} {'of many letters ' * 9}") for path in photos]
        index.add(long, embedder.embed(photos))
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with serving(tmp_path / "index") as server, page_of(chromium, server.url, **phone) as page:
        page.wait_for_selector("#clusters li a")
        page.set_input_files("#file", photos[12])
        names(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_screen_reader_finds_landmarks_names_and_live_regions(chromium: Any, running: Running) -> None:
    with page_of(chromium, running.url) as page:
        assert page.get_by_role("region", name="Clusters", exact=True).count() == 1
        page.locator("#samples li a").first.click()
        names(page)
        assert page.locator("html").get_attribute("lang") == "en"
        for role in ("banner", "main", "status"):
            assert page.get_by_role(role).count() >= 1, role
        for title in ("Query", "Map"):
            assert page.get_by_role("region", name=title, exact=True).count() == 1, title
        for title in ("Results", "Query expansion"):
            assert page.get_by_role("slider", name=title).count() == 1, title
        assert page.get_by_label("Only label").count() == 1
        assert page.get_by_role("application", name="Map of the collection").count() == 1
        assert page.get_by_role("link", name=re.compile(r"^1\. similarity")).count() == 1
        nameless = page.locator("a, button, input, select, canvas, img").evaluate_all(
            "all => all.filter(e => !(e.hidden || e.ariaLabel || e.labels?.length || e.textContent.trim() "
            "|| e.hasAttribute('alt') || e.querySelector('img[alt]:not([alt=\"\"])'))).map(e => e.outerHTML)"
        )
        assert nameless == []
        ids = page.locator("[id]").evaluate_all("all => all.map(e => e.id)")
        assert len(ids) == len(set(ids))


def test_the_page_asks_for_the_token_once(chromium: Any, place: Path, photos: list[Path]) -> None:
    with serving(place, token=TOKEN) as server, page_of(chromium, server.url, errors=8) as page:
        page.wait_for_selector("#ask[open]")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('ask-why').textContent.includes('The token is wrong')")
        page.wait_for_selector("#ask[open]")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.set_input_files("#file", photos[9])
        assert len(names(page)) == 20
        until(page, "document.querySelector('#matches img').naturalWidth === 20")  # it is fetched with the token first
        page.reload()
        page.wait_for_selector("#samples li a")
        assert page.locator("#ask[open]").count() == 0
        assert page.evaluate("localStorage.length") == 0
