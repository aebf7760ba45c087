"""The map of a collection and its clusters, for one state of the index."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.app.serve.projection import Projection
from embedding_expansion.retrieval.index import Index, Item

#: Images on the map; of a larger collection a random part of so many.
MOST = 5000
#: Fewer are laid out by PCA alone: t-SNE needs neighbours.
FEWEST = 30
#: Clusters: the square root of half the images, and no more than a person can look through.
MOST_CLUSTERS = 48
#: Principal components that t-SNE starts from.
COMPONENTS = 50
#: Labels that are offered to filter by.
MOST_LABELS = 2000

State = Literal["computing", "refining", "ready"]


@dataclass(frozen=True)
class Landscape:
    """What is known of the whole collection.

    Attributes:
        version: of the index that was looked at.
        state: "computing" has nothing yet, "refining" has a map by PCA while t-SNE runs.
        total: images of the collection.
        labels: of all images, with how many have each, the most frequent first.
        items: the images of the map, without thumbnails, by id.
        method: "PCA" or "t-SNE".
        places: of the items, across and up, from 0 to 1.
        cluster: of each item; 0 is the largest.
        closeness: the cosine of each item to the centre of its cluster.
    """

    version: str
    state: State
    total: int
    labels: list[tuple[str, int]]
    items: list[Item]
    method: Literal["PCA", "t-SNE"] | None
    places: Float[np.ndarray, "n 2"]
    cluster: Int[np.ndarray, " n"]
    closeness: Float[np.ndarray, " n"]

    def members(self, cluster: int) -> Int[np.ndarray, " m"]:
        """Positions of a cluster's items, the closest to its centre first."""
        found = np.flatnonzero(self.cluster == cluster)
        return found[np.argsort(-self.closeness[found], kind="stable")]

    @property
    def clusters(self) -> int:
        """How many there are."""
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0


def nothing(state: State = "computing") -> Landscape:
    """That of an empty collection, or of one that has not been looked at."""
    none = np.zeros(0, np.int64)
    return Landscape("", state, 0, [], [], None, np.zeros((0, 2)), none, np.zeros(0))


def survey(index: Index, projection: Projection) -> Iterator[Landscape]:
    """Looks at a collection: first what is quickly computed, then the same with the better map."""
    version = hashlib.sha256(index.state.encode()).hexdigest()[:16]
    items, vectors, total, labels = _sampled(index)
    if not items:
        yield replace(nothing("ready"), version=version)
        return
    components = _components(vectors)
    cluster, closeness = _grouped(vectors)
    is_flat = len(items) < FEWEST or np.ptp(components, axis=0).max() == 0
    state: State = "ready" if is_flat else "refining"
    first = Landscape(version, state, total, labels, items, "PCA", _fitted(components[:, :2]), cluster, closeness)
    yield first
    if not is_flat:
        places = projection.tsne(components)
        if places is None:
            yield replace(first, state="ready")
        else:
            yield replace(first, state="ready", method="t-SNE", places=_fitted(places))


def _sampled(index: Index) -> tuple[list[Item], Float[np.ndarray, "n d"], int, list[tuple[str, int]]]:
    """The items of the map with their vectors, how many there are in all, and the labels of all."""
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


def _components(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
    """The first principal components; at least two columns."""
    from sklearn.decomposition import PCA

    count = min(COMPONENTS, *vectors.shape)
    if len(vectors) > 1 and np.ptp(vectors, axis=0).max() > 0:
        pca: Any = PCA(count, svd_solver="randomized", random_state=0)  # type: ignore[no-untyped-call]
        found: Float[np.ndarray, "n c"] = pca.fit_transform(vectors)
    else:
        found = np.zeros((len(vectors), 2), np.float32)
    return found if found.shape[1] > 1 else np.pad(found, ((0, 0), (0, 1)))


def _grouped(vectors: Float[np.ndarray, "n d"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """k-means: the cluster of each row, the largest being 0, and the cosine to its centre."""
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


def _fitted(places: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Moved and scaled into the square from 0 to 1, in both directions alike."""
    low, high = places.min(axis=0), places.max(axis=0)
    middle, side = (low + high) / 2, max(float((high - low).max()), 1e-12)
    fitted: Float[np.ndarray, "n 2"] = ((places - middle) / side + 0.5).astype(np.float64)
    return fitted
