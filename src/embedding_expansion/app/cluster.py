"""The command embex cluster."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.backbone_options import (
    MODEL,
    add_backbone_options,
    given_options,
    opened_model,
    refuse_backbone_options,
)
from embedding_expansion.app.next_step import index_of, print_next
from embedding_expansion.app.tables import MARKED, table
from embedding_expansion.errors import DataError, InvalidInput

if TYPE_CHECKING:
    import numpy as np

    from embedding_expansion.inference.clusters import Clustering
    from embedding_expansion.inference.thresholds import Thresholds
    from embedding_expansion.retrieval.index import Index, Item

#: Number of clusters that are printed. The folder contains all of them.
CLUSTERS = 20


@dataclass(frozen=True)
class _ClusterInput:
    """The input of the clustering.

    Attributes:
        name: what is clustered, in words.
        items: the items.
        vectors: their unit vectors, (n, d).
        thresholds: the calibrated thresholds of the model or the index.
        index: the index, if the items come from one.
        broken: image files that could not be read, with the reason.
        left_out: a sentence on files that were not looked at; empty if there are none.
    """

    name: str
    items: list[Item]
    vectors: np.ndarray
    thresholds: Thresholds
    index: Index | None
    broken: dict[str, str]
    left_out: str = ""


def run(arguments: list[str]) -> int:
    """Clusters images and writes a folder; returns the exit status, 1 if some images could not be read."""
    given = parse(_options(), arguments)
    out = Path(given.out)

    from embedding_expansion.app.cluster_folder import write_folder
    from embedding_expansion.files import check_free
    from embedding_expansion.inference.clusters import choose, cluster

    check_free(out)
    wanted = {name: given[name] for name in ("method", "k", "similarity", "min_cluster_size")}
    by_labels = given.method == "kmeans" and given.k is None  # which are known once the source is read
    choose(**wanted | ({"k": 1} if by_labels else {}))  # reports invalid options before anything is embedded
    with ExitStack() as opened:
        source = _of_index(given, opened) if _is_index(given.source) else _of_images(given)
        if given.method == "agglomerative" and given.k is given.similarity is None:
            by_labels = source.thresholds.get("same or not") is None and len(labels_in(source.items)) > 1
            wanted["similarity"] = None if by_labels else _calibrated(source.thresholds)
        if by_labels:
            wanted["k"] = _number_of_labels(source.items)
        found = cluster(source.vectors, **wanted, seed=given.seed)
        measures = measure(source.items, found)
        _print(found, source.items, measures)
        left_out = write_folder(out, source.items, found, measures, source.index, source.name, links=given.links)
    _print_written(out, left_out, links=given.links)
    print_next(
        ["embex", "duplicates", *given.source]
        if source.index is not None
        else index_of(given.model, given.source, given_options(given))
    )
    if source.left_out:
        print(f"embex: {source.left_out}", file=sys.stderr)
    for path, reason in source.broken.items():
        print(f"embex: skipped {path}: {reason}", file=sys.stderr)
    return 1 if source.broken else 0


def _options() -> jsonargparse.ArgumentParser:
    options = command(
        "cluster",
        "Clusters images, or the images of an index. Writes a folder with a table, HTML pages and a folder "
        "of links for each cluster.",
    )
    options.add_argument("source", type=str, nargs="+", help="an index, or image files and folders")
    options.add_argument("--model", type=str | None, default=None, help=f"for image files: {MODEL}")
    options.add_argument(
        "--method",
        type=str | None,
        default=None,
        help="louvain, kmeans, agglomerative or hdbscan; default: louvain, or the method that another option implies",
    )
    options.add_argument(
        "--k",
        type=int | None,
        default=None,
        help="kmeans, agglomerative: number of clusters; default: the number of labels, where there are some",
    )
    options.add_argument(
        "--similarity",
        type=float | None,
        default=None,
        help='agglomerative: merge clusters down to this similarity; default: the calibrated threshold "same or not"',
    )
    options.add_argument(
        "--min_cluster_size", type=int | None, default=None, help="hdbscan: smallest size of a cluster; default: 5"
    )
    options.add_argument("--seed", type=int, default=0, help="louvain, kmeans: random seed")
    options.add_argument("--out", type=str, default="clusters", help=f"folder to write; in its clusters.csv {MARKED}")
    options.add_argument("--links", type=bool, default=True, help="make a folder of symbolic links for each cluster")
    options.add_argument("--device", type=str, default="auto", help="device of the model: auto, cpu, cuda, cuda:1, ...")
    add_backbone_options(options)
    return options


def _is_index(names: list[str]) -> bool:
    from embedding_expansion.retrieval.index import is_index

    return len(names) == 1 and ("://" in names[0] or is_index(names[0]))


def _of_index(given: jsonargparse.Namespace, opened: ExitStack) -> _ClusterInput:
    from embedding_expansion.inference.gallery import thresholds_of
    from embedding_expansion.inference.gathering import gathered
    from embedding_expansion.retrieval.index import open_index

    if given.model is not None:
        raise InvalidInput(f"{given.source[0]} is an index, which already has its vectors; omit --model")
    refuse_backbone_options(given, given.source[0], "an index, which already has its vectors")
    index = opened.enter_context(open_index(given.source[0]))
    items, vectors = gathered(index)
    return _ClusterInput(index.location, items, vectors, thresholds_of(index), index, {})


def _of_images(given: jsonargparse.Namespace) -> _ClusterInput:
    from embedding_expansion.data.finding import ImageFile, find_images
    from embedding_expansion.retrieval.index import Item

    if given.model is None:
        raise InvalidInput(
            f"{', '.join(given.source)} is not an index, and image files need a model to embed them; pass "
            "--model with a run folder, an export folder or a backbone"
        )
    found = find_images(given.source)
    # Images in subfolders of a named folder are labelled by their folder. Each image is taken once.
    named: dict[str, ImageFile] = {}
    for file in found.files:
        named.setdefault(os.path.abspath(file.path), file)
    items = [Item(path, file.folder) for path, file in named.items()]
    embedder, failed = opened_model(given.model, given), dict[int, str]()
    vectors = embedder.embed([file.read for file in named.values()], broken=failed)
    if len(failed) == len(items):
        raise DataError(f"none of {len(items)} images can be read; the first error: {failed[0]}")
    read = [item for position, item in enumerate(items) if position not in failed]
    broken = {items[position].path: reason for position, reason in failed.items()}
    return _ClusterInput(", ".join(given.source), read, vectors, embedder.thresholds, None, broken, str(found.left_out))


def _calibrated(thresholds: Thresholds) -> float:
    threshold = thresholds.get("same or not")
    if threshold is None:
        raise InvalidInput(
            "agglomerative needs --k or --similarity, because no threshold was calibrated and there are no labels; "
            "pass one of them, or omit --method, as louvain needs neither"
        )
    print(f"merging clusters down to a similarity of {threshold.value:.3f}, the calibrated threshold for same or not")
    return threshold.value


def labels_in(items: list[Item]) -> set[str]:
    """The labels of the items."""
    return {item.label for item in items if item.label is not None}


def _number_of_labels(items: list[Item]) -> int:
    number = len(labels_in(items))
    if number < 2:
        raise InvalidInput("k-means needs --k, as the images have no labels to count; pass it, or omit --method")
    print(f"k is {number}, the number of labels")
    return number


def measure(items: list[Item], found: Clustering) -> dict[str, int | float]:
    """Compares the clusters with the labels, over all labelled images; empty if there are fewer than two labels."""
    from embedding_expansion.retrieval.clustering import partition_metrics

    labels = [item.label for item in items]
    rows = [row for row, label in enumerate(labels) if label is not None]
    names = {label: number for number, label in enumerate(dict.fromkeys(labels[row] for row in rows))}
    if len(names) < 2:
        return {}
    measures = partition_metrics([names[labels[row]] for row in rows], found.cluster[rows])
    return {"images with a label": len(rows), "labels": len(names)} | measures


def _print(found: Clustering, items: list[Item], measures: dict[str, int | float]) -> None:
    from embedding_expansion.app.pages.clusters import labels_of

    print(f"method: {found.reason}")
    print(f"{len(items):,} images: {len(found.sizes):,} clusters, {found.noise:,} images in none (noise)")
    print(f"how sure: {found.sure}")
    if 2 * found.noise > len(items):
        print("more than half of the images are noise; --k or a smaller --min_cluster_size puts more into clusters")
    rows = [
        [str(number), f"{size:,}", labels_of(items, found.members(number).tolist()) or "–", items[row].path]
        for number, (size, row) in enumerate(zip(found.sizes[:CLUSTERS], found.representatives, strict=False))
    ]
    if rows:
        print(table(["cluster", "images", "labels", "representative"], rows, right=(0, 1)))
    if len(found.sizes) > CLUSTERS:
        print(f"and {len(found.sizes) - CLUSTERS:,} more")
    if measures:
        values = ", ".join(f"{name.upper()} {measures[name]:.3f}" for name in ("nmi", "ami", "ari", "f1"))
        print(f"compared with {measures['labels']:,} labels of {measures['images with a label']:,} images: {values}")


def _print_written(out: Path, left_out: int, *, links: bool) -> None:
    print(f"written: {out / 'index.html'}, clusters.csv{' and members/, folders of links' if links else ''}")
    if left_out:
        print(f"{left_out:,} images have no link, because their files are missing")
