"""embex search against plain products of the model's vectors: the table, JSON, the page, and what is refused."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.pages.conftest import ODD_LABEL, ODD_NAMES, Shop
from app.pages.laws import check_page, rows_of
from embedding_expansion.app.cli import main
from embedding_expansion.inference.collection import Collection
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.gallery import NOTE
from embedding_expansion.inference.thresholds import thresholds_json
from embedding_expansion.retrieval.index import create_index, open_index
from embedding_expansion.retrieval.threshold import Threshold

CPU = ["--device", "cpu"]


@pytest.fixture
def query(tmp_path: Path) -> Path:
    """An image that is not in the collection."""
    path = tmp_path / "query.png"
    Image.fromarray(np.random.default_rng(7).integers(0, 256, (30, 50, 3), dtype=np.uint8)).save(path)
    return path


def by_products(shop: Shop, query: Path, k: int, kept: list[int] | None = None) -> list[tuple[str, float]]:
    """The paths and similarities of the k closest of some items."""
    rows = range(len(shop.items)) if kept is None else kept
    vector = Embedder.load(shop.model, device="cpu").embed(query)[0].astype(np.float64)
    cosines = {row: float(sum(a * b for a, b in zip(shop.vectors[row].tolist(), vector, strict=True))) for row in rows}
    best = sorted(rows, key=lambda row: (-cosines[row], row))[:k]
    return [(shop.items[row].path, cosines[row]) for row in best]


def found_in(content: dict[str, Any]) -> list[tuple[str, float]]:
    return [(match["path"], match["similarity"]) for match in content["queries"][0]["matches"]]


def check_alike(found: list[tuple[str, float]], expected: list[tuple[str, float]]) -> None:
    """The same matches; two that are within rounding of single precision of each other may change places."""
    cosine = dict(expected)
    assert {path for path, _ in found} == set(cosine)
    np.testing.assert_allclose([value for _, value in found], [cosine[path] for path, _ in found], atol=1e-5)
    assert np.diff([cosine[path] for path, _ in found]).max() < 1e-6


def test_json_holds_what_plain_products_find_on_both_backends(
    either_place: str, shop: Shop, query: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", either_place, str(query), "-k", "35", "--json", "-", *CPU]) == 0
    content = json.loads(capsys.readouterr().out)
    check_alike(found_in(content), by_products(shop, query, 35))
    by_path = {item.path: item for item in shop.items}
    for rank, match in enumerate(content["queries"][0]["matches"], start=1):
        item = by_path[match["path"]]
        assert (match["rank"], match["label"], match["metadata"]) == (rank, item.label, dict(item.metadata))
    assert (content["queries"][0]["known"], content["threshold"]) == (None, None)


def test_the_table_says_the_same_and_obeys_no_name(
    place: str, shop: Shop, query: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", place, str(query), "-k", "35", *CPU]) == 0
    printed = capsys.readouterr().out
    first, heads, *rows = printed.splitlines()
    assert first == str(query)
    assert heads.split() == ["rank", "similarity", "label", "path"]
    found = [re.split(r" {2,}", row.strip()) for row in rows if row and not row.startswith("next: ")]
    expected = by_products(shop, query, 35)
    assert [row[0] for row in found] == [str(rank) for rank in range(1, 36)]
    np.testing.assert_allclose([float(row[1]) for row in found], [value for _, value in expected], atol=6e-5)
    written = {
        path.replace("\n", r"\n").replace("\x1b", r"\x1b").replace("\udce9", r"\udce9"): path for path, _ in expected
    }
    check_alike([(written[row[3]], dict(expected)[written[row[3]]]) for row in found], expected)
    assert ODD_LABEL in {row[2] for row in found}


def test_several_images_go_through_the_model_at_once(
    place: str, shop: Shop, query: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batches, run = [], Embedder.embed_squares

    def counted(self: Embedder, batch: list[Any], **options: Any) -> Any:
        batches.append(len(batch))
        return run(self, batch, **options)

    monkeypatch.setattr(Embedder, "embed_squares", counted)
    images = [str(query), shop.items[3].path, shop.items[20].path]
    assert main(["search", place, *images, "-k", "1", "--json", "-", *CPU]) == 0
    content = json.loads(capsys.readouterr().out)
    assert batches == [3]
    assert [one["query"] for one in content["queries"]] == images
    assert [one["matches"][0]["path"] for one in content["queries"]][1:] == images[1:]


def test_a_folder_stands_for_the_images_in_it(
    place: str, query: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "queries"
    (folder / "deeper").mkdir(parents=True)
    copies = [folder / "a.png", folder / "deeper" / "b.png"]
    for copy in copies:
        shutil.copy(query, copy)
    (folder / "notes.txt").write_text("no image")
    assert main(["search", place, str(query), str(folder), "--json", "-", *CPU]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [one["query"] for one in content["queries"]] == [str(query), *map(str, copies)]
    first, *others = ([match["path"] for match in one["matches"]] for one in content["queries"])
    assert others == [first, first]


def test_an_image_can_come_from_stdin(
    place: str, shop: Shop, query: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(query.read_bytes())))
    out, page = tmp_path / "found.json", tmp_path / "found.html"
    assert main(["search", place, "-", "-k", "5", "--json", str(out), "--html", str(page), *CPU]) == 0
    check_alike(found_in(json.loads(out.read_text())), by_products(shop, query, 5))
    assert "image from stdin" in check_page(page).text


def test_query_expansion_is_that_of_the_collection(place: str, query: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["search", place, str(query), "-k", "6", "--qe", "4", "--alpha", "2"]
    assert main([*given, "--json", "-", *CPU]) == 0
    content = json.loads(capsys.readouterr().out)
    with Collection.open(place, device="cpu") as collection:
        (answer,) = collection.search(collection.embedder.embed(query), 6, qe=4, alpha=2.0)
    assert found_in(content) == [(match.item.path, match.similarity) for match in answer.matches]
    assert main([*given, *CPU]) == 0
    assert "the average of each query and its 4 closest images" in capsys.readouterr().out


def test_only_a_label_or_a_folder_is_searched_where_that_is_asked_for(
    place: str, shop: Shop, query: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shop.items[4].path).parent
    monkeypatch.chdir(folder.parent)
    of_class = [row for row, item in enumerate(shop.items) if item.label == folder.name]
    options = (
        ["--label", folder.name],
        ["--prefix", f"{folder}/"],
        ["--prefix", folder.name],
        ["--prefix", str(folder)],
    )
    for option in options:
        assert main(["search", place, str(query), "--json", "-", *option, *CPU]) == 0
        check_alike(found_in(json.loads(capsys.readouterr().out)), by_products(shop, query, 10, of_class))
    assert main(["search", place, str(query), "--label", "nobody", *CPU]) == 0
    assert "no image in the index has this label and prefix" in capsys.readouterr().out


def test_known_and_unknown_are_said_in_words(
    shop: Shop, query: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ((_, closest),) = by_products(shop, query, 1)
    threshold = Threshold((1 + closest) / 2, "known or unknown", "precision", 0.9, 0.95, 0.8, 4, 8)
    place, page = shop.fill(str(tmp_path / "index")), tmp_path / "page.html"
    with open_index(place) as index:
        index.set_note(NOTE, thresholds_json({"known or unknown": threshold}))
    known = shop.items[5].path
    assert main(["search", place, known, str(query), "--html", str(page), *CPU]) == 0
    printed = capsys.readouterr().out
    assert f"{known}: known: the closest match reaches the calibrated threshold {threshold.value:.3f}" in printed
    assert f"{query}: unknown: no match reaches the calibrated threshold {threshold.value:.3f}" in printed
    text = check_page(page).text
    assert "unknown: no match reaches" in text
    assert text.count("known: the closest match reaches") == 1
    assert main(["search", place, known, str(query), "--json", "-", *CPU]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [one["known"] for one in content["queries"]] == [True, False]
    assert content["threshold"] == threshold.value


def test_the_page_shows_each_query_and_its_matches_and_escapes_every_name(
    place: str, shop: Shop, query: Path, tmp_path: Path
) -> None:
    page_file = tmp_path / "page.html"
    odd = tmp_path / "<script>alert(2).png"
    shutil.copy(query, odd)
    assert main(["search", place, str(odd), shop.items[0].path, "-k", "35", "--html", str(page_file), *CPU]) == 0
    page = check_page(page_file)
    assert rows_of(page) == 70
    assert len(page.of("img")) == 2 + 2 + 70  # those of the overview, the queries and the matches
    assert "<script>alert(2).png" in page.text
    alts = [picture["alt"] for picture in page.of("img")]
    assert len([alt for alt in alts if alt.endswith(f": {ODD_LABEL}, {ODD_NAMES[0]}")]) == 2
    assert shop.items[0].path in page.text


def test_a_broken_image_is_named_and_the_others_are_searched_for(
    place: str, shop: Shop, query: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    assert main(["search", place, str(broken), str(query), "-k", "2", "--json", "-", *CPU]) == 1
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    check_alike(found_in(content), by_products(shop, query, 2))
    assert [one["query"] for one in content["broken"]] == [str(broken)]
    assert printed.err.startswith(f"embex: skipped {broken}: ")
    assert main(["search", place, str(broken), *CPU]) == 2
    assert "none of 1 images can be read" in capsys.readouterr().err


def test_what_cannot_be_searched_is_one_sentence(
    place: str, shop: Shop, query: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = str(tmp_path / "empty")
    with create_index(empty, dimensions=6) as index:
        for file in shop.model.iterdir():
            index.files.put(file)
    image, nothing = str(query), tmp_path / "nothing"
    nothing.mkdir()
    for given, sentence in (
        ([str(tmp_path / "nowhere"), image], "nowhere"),
        ([str(tmp_path), image], str(tmp_path)),
        ([empty, image], "holds no images; add some with embex add"),
        ([place, image, "-k", "0"], "k is 0"),
        ([place, image, "--qe", "-1"], "qe is -1"),
        ([place, str(nothing)], f"there is no image in {nothing}"),
        ([place, str(tmp_path / "gone.jpg")], "gone.jpg does not exist"),
        ([place, "-", "-"], "pass - once"),
        ([place, image, "--html", str(tmp_path / "no" / "x.html")], "there is no folder"),
        ([place, image, "--json", str(tmp_path)], "is a folder"),
    ):
        assert main(["search", *given, *CPU]) == 2, given
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
