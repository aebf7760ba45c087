"""The HTML pages of embex cluster: an overview, and a page per cluster with its members."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.app.pages.pictures import PageImage, PageImages
from embedding_expansion.app.pages.rendering import render
from embedding_expansion.app.tables import count
from embedding_expansion.inference.clusters import Clustering
from embedding_expansion.retrieval.index import Item

#: Clusters with pictures on the overview, pictures per cluster besides the representative, and members per page.
CLUSTERS, BESIDE, MEMBERS = 300, 7, 500
LABELS = 3  # labels named per cluster


@dataclass(frozen=True)
class ClusterSummary:
    """A cluster on the overview page. Only the first `CLUSTERS` have pictures."""

    title: str
    page: str
    size: int
    labels: str
    representative: PageImage | None
    beside: list[PageImage]


def write_pages(
    folder: Path,
    items: list[Item],
    found: Clustering,
    images: PageImages,
    measures: dict[str, int | float],
    source: str,
) -> None:
    """Writes index.html, a page for each cluster, and a page for the noise.

    Args:
        folder: the folder to write to.
        items: the clustered items.
        found: their clusters.
        images: the pictures of the items.
        measures: agreement with the labels; empty without labels.
        source: what was clustered, in words.
    """
    numbers = [*range(len(found.sizes)), *([-1] if found.noise else [])]
    groups = []
    for place, number in enumerate(numbers):
        rows = found.members(number).tolist()
        pictures = [images[items[row]] for row in rows[:MEMBERS]]
        page = f"cluster-{name_of(number, len(found.sizes))}.html"
        title, labels = "In no cluster" if number < 0 else f"Cluster {number}", labels_of(items, rows)
        closeness = [float(found.similarity[row]) for row in rows[:MEMBERS]]
        _write_members(folder / page, title, rows, labels, list(zip(closeness, pictures, strict=True)), source)
        shown = pictures[: 1 + BESIDE] if place < CLUSTERS or number < 0 else []
        groups.append(ClusterSummary(title, page, len(rows), labels, shown[0] if shown else None, shown[1:]))
    facts = [("images", f"{len(items):,}"), ("source", source), ("method", found.method)]
    facts += [(name.upper(), f"{measures[name]:.3f}") for name in ("nmi", "ami", "ari", "f1") if measures]
    content = {
        "kicker": "Clusters",
        "title": count(len(found.sizes), "cluster")
        + (f", {count(found.noise, 'image')} in none" if found.noise else ""),
        "facts": facts,
        "reason": found.reason,
        "sure": found.sure,
        "measures": measures,
        "groups": [group for group in groups if group.representative],
        "further": [group for group in groups if not group.representative],
    }
    (folder / "index.html").write_bytes(render("clusters.html", **content))


def _write_members(
    path: Path, title: str, rows: list[int], labels: str, members: list[tuple[float, PageImage]], source: str
) -> None:
    facts = [("images", f"{len(rows):,}"), ("source", source), *([("labels", labels)] if labels else [])]
    page = render("cluster.html", kicker="Clusters", title=title, facts=facts, members=members, size=len(rows))
    path.write_bytes(page)


def name_of(number: int, clusters: int) -> str:
    """The name of a cluster's files and folders, zero-padded so that names sort by number."""
    return "noise" if number < 0 else str(number).zfill(len(str(clusters - 1)))


def labels_of(items: list[Item], rows: Iterable[int]) -> str:
    """The most frequent labels of the given items with their counts, and the number of other labels."""
    counts = Counter(label for row in rows if (label := items[row].label) is not None)
    named = [f"{label} {number}" for label, number in counts.most_common(LABELS)]
    others = len(counts) - len(named)
    return ", ".join(named) + (f" and {count(others, 'other label')}" if others else "")
