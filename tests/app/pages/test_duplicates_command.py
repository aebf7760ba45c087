"""embex duplicates on vectors whose near-duplicates are known: what is printed, written and refused."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from app.pages.conftest import ODD_LABEL, ODD_NAMES, Shop
from app.pages.laws import check_page
from embedding_expansion.app.cli import main
from embedding_expansion.retrieval.index import Item, create_index

Rows = npt.NDArray[np.float64]
#: Rows of the same image, of which the second pair has two labels.
COPIES = [[3, 17, 31], [5, 6]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """40 directions far from each other, and copies with a little noise."""
    random = np.random.default_rng(2)
    drawn = random.standard_normal((40, 32))
    for first, *others in COPIES:
        for other in others:
            drawn[other] = drawn[first] + 0.02 * random.standard_normal(32)
    return drawn


def items_of(n: int) -> list[Item]:
    return [Item(f"/photos/{i}.jpg", "one" if i % 2 else "two", {"width": 640, "height": 480}) for i in range(n)]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_groups_are_printed_and_written_on_both_backends(
    request: pytest.FixtureRequest, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    for place in (str(tmp_path / "index"), f"{request.getfixturevalue('server')}&index=copies"):
        with create_index(place, dimensions=32) as index:
            index.add(items_of(40), rows)
        out = tmp_path / "groups.csv"
        assert main(["duplicates", place, "--csv", str(out), "--html", str(tmp_path / "groups.html")]) == 0
        printed = capsys.readouterr().out
        assert (
            "40 images, all pairs compared; near-duplicates have a similarity of at least 0.98 (the default" in printed
        )
        assert "2 groups, 5 images, 4 pairs" in printed
        assert "group 1: 3 images\n" in printed
        assert "group 2: 2 images, labels differ\n" in printed
        written = read(out)
        expected = [(str(number), row) for number, group in enumerate(COPIES, start=1) for row in group]
        assert [(entry["group"], entry["path"]) for entry in written] == [(n, f"/photos/{r}.jpg") for n, r in expected]
        for entry, (_, row) in zip(written, expected, strict=True):
            assert float(entry["similarity"]) == pytest.approx(cosines[row].max(), abs=2e-6)
            assert entry["most_similar"] == f"/photos/{cosines[row].argmax()}.jpg"
            assert entry["label"] == ("one" if row % 2 else "two")
        page = check_page(tmp_path / "groups.html")
        assert "2 groups of near-duplicates" in page.text
        assert page.text.count("Labels differ") + page.text.count("labels differ") == 1
        assert page.text.count("640 × 480") == 5


def test_the_page_shows_pictures_side_by_side_and_escapes_every_name(
    place: str, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page_file, out = tmp_path / "page.html", tmp_path / "groups.csv"
    assert main(["duplicates", place, "--threshold", "0.99999", "--html", str(page_file), "--csv", str(out)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    odd = [item.path for item in shop.items[-3:]]
    assert {entry["path"] for entry in read(out)} >= set(odd)  # each is a copy of a photograph
    page = check_page(page_file)
    alts = [picture["alt"] for picture in page.of("img")]
    assert f"{ODD_LABEL}, {ODD_NAMES[0]}" in alts
    assert len(alts) == len(read(out))  # the one without a thumbnail comes from its file
    assert ODD_LABEL in page.text


def test_an_image_without_thumbnail_and_file_is_said_to_have_no_picture(tmp_path: Path) -> None:
    with create_index(tmp_path / "index", dimensions=2) as index:
        index.add([Item("/gone/1.jpg"), Item("/gone/2.jpg", thumbnail=b"<svg onload='alert(1)'/>")], np.ones((2, 2)))
    assert main(["duplicates", str(tmp_path / "index"), "--html", str(tmp_path / "page.html")]) == 0
    page = check_page(tmp_path / "page.html")
    assert page.of("img") == []
    assert [e["aria-label"] for _, e in page.elements if e.get("role") == "img"] == [
        "1.jpg, no picture",
        "2.jpg, no picture",
    ]


def test_where_nearly_all_are_near_duplicates_a_higher_threshold_is_advised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    rows = 1 + 0.01 * random.standard_normal((60, 16))
    rows[7] = rows[8] + 1e-4
    with create_index(tmp_path / "index", dimensions=16) as index:
        index.add(items_of(60), rows)
    assert main(["duplicates", str(tmp_path / "index")]) == 0
    printed = capsys.readouterr().out
    assert "1 group, 60 images, 1,770 pairs" in printed
    assert "and 50 more" in printed
    assert "100% of the images are near-duplicates at this threshold" in printed
    assert main(["duplicates", str(tmp_path / "index"), "--threshold", "0.99999"]) == 0
    printed = capsys.readouterr().out
    assert "1 group, 2 images, 1 pair" in printed
    assert "(the default" not in printed


def test_without_near_duplicates_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with create_index(tmp_path / "index", dimensions=3) as index:
        index.add(items_of(3), np.eye(3))
    assert main(["duplicates", str(tmp_path / "index"), "--html", str(tmp_path / "page.html")]) == 0
    assert "0 groups, 0 images, 0 pairs" in capsys.readouterr().out
    assert "No two images reach the threshold" in check_page(tmp_path / "page.html").text


def test_it_runs_without_torch(place: str) -> None:
    program = (
        "import sys; from embedding_expansion.app.cli import main\n"
        f"assert main(['duplicates', {place!r}]) == 0\n"
        "assert not {'torch', 'torchvision', 'sklearn', 'faiss'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)


def test_what_cannot_be_is_one_sentence(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with create_index(tmp_path / "empty", dimensions=3):
        pass
    Image.new("RGB", (9, 9)).save(tmp_path / "image.png")
    for given, sentence in (
        ([str(tmp_path / "nowhere")], "nowhere"),
        ([str(tmp_path / "image.png")], "image.png"),
        ([str(tmp_path / "empty")], "holds no images; add some"),
        ([place, "--threshold", "1.5"], "threshold is 1.5; pass a cosine"),
        ([place, "--threshold", "0"], "threshold is 0"),
        ([place, "--threshold", "high"], "--threshold is 'high'"),
        ([place, "--csv", str(tmp_path)], "is a folder"),
        ([place, "--html", str(tmp_path / "no" / "x.html")], "there is no folder"),
    ):
        assert main(["duplicates", *given]) == 2, given
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert printed.err.count("\n") == 1
