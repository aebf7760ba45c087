"""embex cluster against its parts: the table, links, pages and measures; what is refused; and a kill in the middle."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from app.pages.conftest import ODD_LABEL, ODD_NAMES, Shop
from app.pages.laws import check_page
from embedding_expansion.app import cluster_folder
from embedding_expansion.app.cli import main
from embedding_expansion.inference.clusters import Clustering, cluster
from embedding_expansion.inference.gallery import NOTE
from embedding_expansion.inference.thresholds import thresholds_json
from embedding_expansion.retrieval.clustering import partition_metrics
from embedding_expansion.retrieval.index import Item, create_index, open_index
from embedding_expansion.retrieval.threshold import Threshold


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "clusters.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def check_folder(folder: Path, items: list[Item], found: Clustering) -> None:
    """The table, the links and the pages, each against the clusters that were found."""
    written = read(folder)
    assert list(written[0]) == ["path", "cluster", "similarity", "is_representative", "label"]
    assert [entry["path"] for entry in written] == [item.path for item in items]
    assert [int(entry["cluster"]) for entry in written] == found.cluster.tolist()
    assert [entry["label"] for entry in written] == [item.label or "" for item in items]
    for row, entry in enumerate(written):
        assert entry["similarity"] == ("" if found.cluster[row] < 0 else f"{found.similarity[row]:.6f}")
        assert entry["is_representative"] == ("true" if row in found.representatives else "false")
    width = len(str(len(found.sizes) - 1))
    for number in range(-1 if found.noise else 0, len(found.sizes)):
        name = "noise" if number < 0 else f"{number:0{width}d}"
        members = [items[row].path for row in range(len(items)) if found.cluster[row] == number]
        assert sorted(os.readlink(link) for link in (folder / "members" / name).iterdir()) == sorted(members)
        page = check_page(folder / f"cluster-{name}.html")
        assert len(page.of("img")) == len(members)
        assert [link["href"] for link in page.of("a")][1:] == ["index.html"]  # the first skips to the content
    index = check_page(folder / "index.html")
    sizes = [int(size) for size in found.sizes] + ([found.noise] if found.noise else [])
    assert len(index.of("article")) == len(sizes)
    assert len(index.of("img")) == sum(min(size, 8) for size in sizes)


def test_an_index_is_clustered_into_a_folder_on_both_backends(
    either_place: str, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["cluster", either_place, "--k", "8", "--seed", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    found = cluster(shop.vectors, k=8, seed=3)
    check_folder(out, shop.items, found)
    assert "method: k-means, because the number of clusters is given" in printed
    assert "35 images: 8 clusters, 0 images in none (noise)" in printed
    named = [row for row, item in enumerate(shop.items) if item.label is not None]
    names = sorted({str(shop.items[row].label) for row in named})
    expected = partition_metrics([names.index(str(shop.items[row].label)) for row in named], found.cluster[named])
    values = ", ".join(f"{name.upper()} {expected[name]:.3f}" for name in ("nmi", "ami", "ari", "f1"))
    assert f"compared with 9 labels of 33 images: {values}" in printed
    assert "\x1b" not in printed
    assert f"NMI{expected['nmi']:.3f}" in check_page(out / "index.html").text.replace(" ", "")


def test_with_a_smallest_size_hdbscan_is_taken_and_said_so(
    place: str, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be there
    assert main(["cluster", place, "--min_cluster_size", "3", "--out", str(out)]) == 0
    found = cluster(shop.vectors, min_cluster_size=3)
    assert found.noise
    check_folder(out, shop.items, found)
    printed = capsys.readouterr().out
    assert "method: hdbscan, because the smallest size of a cluster is given" in printed
    assert f"how sure: {found.sure}" in printed
    assert f"{found.noise} images in none (noise)" in printed
    assert f"{found.noise} images in none" in check_page(out / "index.html").text


def test_without_options_louvain_is_taken_and_it_says_how_sure_it_is(
    place: str, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["cluster", place, "--out", str(out)]) == 0
    found = cluster(shop.vectors)
    check_folder(out, shop.items, found)
    printed = capsys.readouterr().out
    assert "method: louvain, because the number of clusters is not given" in printed
    assert f"how sure: mean silhouette {found.silhouette:.2f}" in printed
    assert found.sure in check_page(out / "index.html").text


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_without_k_there_are_as_many_clusters_as_labels(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    assert main(["cluster", place, "--method", method, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "k is 9, the number of labels" in printed
    assert "35 images: 9 clusters" in printed


def test_without_k_and_labels_k_means_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with create_index(tmp_path / "index", dimensions=2) as index:
        index.add([Item("a.jpg"), Item("b.jpg", label="b")], [[1.0, 0.0], [0.0, 1.0]])
    given = ["cluster", str(tmp_path / "index"), "--out", str(tmp_path / "out")]
    assert main([*given, "--method", "kmeans"]) == 2
    assert "k-means needs --k, as the images have no labels to count" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_are_escaped_on_every_page(place: str, shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["cluster", place, "--k", "1", "--out", str(out)]) == 0
    page = check_page(out / "cluster-0.html")
    assert f"{ODD_LABEL}, {ODD_NAMES[0]}" in [picture["alt"] for picture in page.of("img")]
    assert ODD_LABEL in page.text
    links = {link.name: os.readlink(link) for link in (out / "members" / "0").iterdir()}
    for item in shop.items[-3:]:
        assert links[Path(item.path).name] == item.path


def test_images_are_clustered_with_a_model_and_labelled_by_their_folders(
    model: Path, photographs: Path, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, broken = tmp_path / "out", tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    given = ["cluster", str(photographs), str(broken), "--model", str(model), "--device", "cpu"]
    assert main([*given, "--method", "agglomerative", "--k", "5", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"embex: skipped {broken}: ")
    assert "compared with 8 labels of 32 images" in printed.out
    check_folder(out, shop.items[:32], cluster(shop.vectors[:32], method="agglomerative", k=5))


def test_agglomerative_joins_down_to_the_calibrated_similarity(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, options = shop.fill(str(tmp_path / "index")), ["--method", "agglomerative", "--links", "false"]
    given = ["cluster", place, *options, "--out", str(tmp_path / "out")]
    with create_index(tmp_path / "bare", dimensions=2) as index:
        index.add([Item("a.jpg"), Item("b.jpg")], np.eye(2))
    assert main(["cluster", str(tmp_path / "bare"), *options, "--out", str(tmp_path / "none")]) == 2
    assert "needs --k or --similarity, because no threshold was calibrated" in capsys.readouterr().err
    threshold = Threshold(0.9, "same or not", "precision", 0.9, 0.95, 0.8, 4, 8)
    with open_index(place) as index:
        index.set_note(NOTE, thresholds_json({"same or not": threshold}))
    assert main(given) == 0
    assert "merging clusters down to a similarity of 0.900" in capsys.readouterr().out
    found = cluster(shop.vectors, similarity=0.9)
    assert [int(entry["cluster"]) for entry in read(tmp_path / "out")] == found.cluster.tolist()
    assert not (tmp_path / "out" / "members").exists()


def test_links_of_equal_names_are_numbered_and_those_without_a_file_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "é" * 125 + ".jpg"  # 254 bytes
    names = ["1/a.jpg", "2/a.jpg", "3/a.jpg", "1/a-2.jpg", "1/plain", "2/plain", f"1/{long}", f"2/{long}"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    paths = [str(tmp_path / name) for name in names] + [str(tmp_path / "gone.jpg"), "nul\0.jpg"]
    with create_index(tmp_path / "index", dimensions=2) as index:
        index.add([Item(path) for path in paths], np.ones((len(paths), 2)))
    assert main(["cluster", str(tmp_path / "index"), "--k", "1", "--out", str(tmp_path / "out")]) == 0
    assert "2 images have no link, because their files are missing" in capsys.readouterr().out
    links = {link.name: os.readlink(link) for link in (tmp_path / "out" / "members" / "0").iterdir()}
    assert sorted(links.values()) == sorted(paths[:8])
    assert links.keys() >= {"a.jpg", "a-2.jpg", "a-3.jpg", "plain", "plain-2", long}
    assert {links[name] for name in links if name.startswith("a")} == set(paths[:4])


def test_what_is_there_already_is_not_touched(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in ("out", "file"):
        assert main(["cluster", place, "--k", "2", "--out", str(tmp_path / out)]) == 2
        assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert (tmp_path / "file").read_text() == "mine"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cluster_folder, "write_pages", full)
    assert main(["cluster", place, "--k", "2", "--out", str(tmp_path / "new")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_a_kill_in_the_middle_leaves_no_folder(shop: Shop, tmp_path: Path) -> None:
    items = [Item(f"/{i}", None, {}, shop.items[i % 32].thumbnail) for i in range(800)]
    rows = np.random.default_rng(0).standard_normal((800, 4))
    with create_index(tmp_path / "index", dimensions=4) as index:
        index.add(items, rows)
    given = [sys.executable, "-m", "embedding_expansion", "cluster", str(tmp_path / "index"), "--k", "40"]
    process = subprocess.Popen([*given, "--out", str(tmp_path / "out")], stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("out.partial-*/cluster-0[5-9].html")):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert main([*given[3:], "--out", str(tmp_path / "out")]) == 0
    assert len(read(tmp_path / "out")) == 800
    assert not list(tmp_path.glob("out.partial-*"))  # what was killed is cleared away


def test_what_cannot_be_is_one_sentence_before_anything_is_embedded(
    place: str,
    model: Path,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("embedding_expansion.inference.embedder.Embedder.embed", lambda *_, **__: pytest.fail("work"))
    with create_index(tmp_path / "empty", dimensions=3):
        pass
    folder, with_model = str(photographs), ["--model", str(model)]
    for given, sentence in (
        ([folder], f"{folder} is not an index, and image files need a model to embed them; pass --model with a run"),
        ([place, *with_model], "is an index, which already has its vectors"),
        ([str(tmp_path / "nowhere"), *with_model], "there is no file or folder"),
        ([str(tmp_path / "empty")], "holds no images"),
        ([place, "--k", "0"], "k is 0"),
        ([place, "--k", "36"], "k is 36 but embeddings has 35 rows"),
        ([place, "--method", "k-means"], "did you mean 'kmeans'"),
        ([place, "--method", "hdbscan", "--k", "3"], "hdbscan only takes min_cluster_size"),
        ([place, "--similarity", "2"], "similarity is 2"),
        ([folder, *with_model, "--k", "-3"], "k is -3"),
        ([place, "--k", "2", "--out", str(tmp_path / "a" / "b")], "there is no folder"),
    ):
        out = [] if "--out" in given else ["--out", str(tmp_path / "out")]
        assert main(["cluster", *given, *out]) == 2, given
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert printed.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
