"""The 2-D map and the clusters of a collection, for one state of the index."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.app.serve.projection import Projection
from embedding_expansion.retrieval.index import Index, Item
from embedding_expansion.retrieval.projection import has_neighbours, principal_components

#: Maximum number of images on the map; a larger collection is sampled.
MOST = 5000
#: Maximum number of clusters that a person can look through; otherwise the square root of half the images.
MOST_CLUSTERS = 48
#: Number of principal components that t-SNE takes as its input.
COMPONENTS = 50
#: Maximum number of labels offered as filters.
MOST_LABELS = 2000

State = Literal["computing", "refining", "ready"]


@dataclass(frozen=True)
class CollectionMap:
    """The map of a collection, its clusters and its labels.

    Attributes:
        version: identifies the state of the index.
        state: "computing" has nothing yet, "refining" has a map by PCA while t-SNE runs, "ready" is final.
        total: the number of images in the collection.
        labels: all labels with their number of images, the most frequent first.
        items: the images on the map, without thumbnails, sorted by id.
        method: "PCA" or "t-SNE"; None without images.
        positions: x and y of each item, from 0 to 1; y points up.
        cluster: the cluster of each item; 0 is the largest.
        closeness: the cosine similarity of each item to the centre of its cluster.
    """

    version: str
    state: State
    total: int
    labels: list[tuple[str, int]]
    items: list[Item]
    method: Literal["PCA", "t-SNE"] | None
    positions: Float[np.ndarray, "n 2"]
    cluster: Int[np.ndarray, " n"]
    closeness: Float[np.ndarray, " n"]

    def members(self, cluster: int) -> Int[np.ndarray, " m"]:
        """Indices of a cluster's items, the closest to its centre first."""
        found = np.flatnonzero(self.cluster == cluster)
        return found[np.argsort(-self.closeness[found], kind="stable")]

    @property
    def clusters(self) -> int:
        """Number of clusters."""
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0


def empty_map(state: State = "computing") -> CollectionMap:
    """The map of an empty collection, or of one whose map is not computed yet."""
    none = np.zeros(0, np.int64)
    return CollectionMap("", state, 0, [], [], None, np.zeros((0, 2)), none, np.zeros(0))


def compute_maps(index: Index, projection: Projection) -> Iterator[CollectionMap]:
    """Computes the map of a collection: first quickly by PCA, then by t-SNE."""
    version = hashlib.sha256(index.state.encode()).hexdigest()[:16]
    items, vectors, total, labels = _sampled(index)
    if not items:
        yield replace(empty_map("ready"), version=version)
        return
    components = principal_components(vectors, COMPONENTS)
    cluster, closeness = _grouped(vectors)
    is_flat = not has_neighbours(components)
    state: State = "ready" if is_flat else "refining"
    first = CollectionMap(version, state, total, labels, items, "PCA", _fitted(components[:, :2]), cluster, closeness)
    yield first
    if not is_flat:
        positions = projection.tsne(components)
        if positions is None:
            yield replace(first, state="ready")
        else:
            yield replace(first, state="ready", method="t-SNE", positions=_fitted(positions))


def _sampled(index: Index) -> tuple[list[Item], Float[np.ndarray, "n d"], int, list[tuple[str, int]]]:
    """The items on the map, their vectors, the size of the collection and the labels of all its images."""
    total, position = index.count(), 0
    chosen = np.random.default_rng(0).choice(total, min(total, MOST), replace=False)
    is_chosen = np.zeros(total, bool)
    is_chosen[chosen] = True
    items: list[Item] = []
    rows = [np.zeros((0, index.dimensions), np.float32)]
    labels: Counter[str] = Counter()
    for found, vectors in index.batches():
        labels.update(item.label for item in found if item.label is not None)
        here = np.flatnonzero(is_chosen[position : position + len(found)])
        items += [found[place] for place in here]
        rows.append(vectors[here])
        position += len(found)
    return items, np.concatenate(rows), position, labels.most_common(MOST_LABELS)


def _grouped(vectors: Float[np.ndarray, "n d"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """k-means: the cluster of each row (0 is the largest) and its cosine similarity to the centre."""
    from embedding_expansion.retrieval.kmeans import kmeans

    k = max(1, min(MOST_CLUSTERS, round((len(vectors) / 2) ** 0.5)))
    found = kmeans(vectors, k)
    assignment, centers = found.assignment.cpu().numpy(), found.centers.cpu().numpy()
    order = np.argsort(-np.bincount(assignment, minlength=k), kind="stable")
    rank = np.empty(k, np.int64)
    rank[order] = np.arange(k)
    lengths = np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-12)
    closeness = (vectors * (centers / lengths)[assignment]).sum(axis=1)
    return rank[assignment], closeness.astype(np.float64)


def _fitted(positions: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Shifts and scales positions into the unit square, with the same scale in both directions."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    middle, side = (low + high) / 2, max(float((high - low).max()), 1e-12)
    fitted: Float[np.ndarray, "n 2"] = ((positions - middle) / side + 0.5).astype(np.float64)
    return fitted
