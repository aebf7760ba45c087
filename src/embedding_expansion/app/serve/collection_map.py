"""The 2-D map of a collection with its clusters and labels, for one state of the index."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from embedding_expansion.app.serve.facets import Facets
from embedding_expansion.app.serve.grouping import Grouping, default_count, grouped, no_grouping
from embedding_expansion.app.serve.projection import Projection
from embedding_expansion.retrieval.index import Index, Item
from embedding_expansion.retrieval.projection import has_neighbours, principal_components

#: Maximum number of images on the map; a larger collection is sampled.
MOST = 5000
#: Number of principal components that t-SNE takes as its input.
COMPONENTS = 50

State = Literal["computing", "refining", "ready"]


@dataclass(frozen=True)
class CollectionMap:
    """The map of a collection, its clusters, and what it can be filtered by.

    Attributes:
        version: identifies the state of the index.
        state: "computing" has nothing yet, "refining" has a map by PCA while t-SNE runs, "ready" is final.
        total: the number of images in the collection.
        facets: the labels and the metadata of all images.
        items: the images on the map, without thumbnails, sorted by id.
        vectors: their vectors.
        method: "PCA" or "t-SNE"; None without images.
        positions: x and y of each item, from 0 to 1; y points up.
        grouping: their clusters.
    """

    version: str
    state: State
    total: int
    facets: Facets
    items: list[Item]
    vectors: Float[np.ndarray, "n d"]
    method: Literal["PCA", "t-SNE"] | None
    positions: Float[np.ndarray, "n 2"]
    grouping: Grouping


def empty_map(state: State = "computing") -> CollectionMap:
    """The map of an empty collection, or of one whose map is not computed yet."""
    nowhere = np.zeros((0, 2))
    return CollectionMap("", state, 0, Facets(), [], nowhere, None, nowhere, no_grouping())


def version_of(index: Index) -> str:
    """Identifies the state of an index."""
    return hashlib.sha256(index.state.encode()).hexdigest()[:16]


def compute_maps(index: Index, projection: Projection) -> Iterator[CollectionMap]:
    """Computes the map of a collection: first quickly by PCA, then by t-SNE."""
    version = version_of(index)
    items, vectors, total, facets = _sampled(index)
    if not items:
        yield replace(empty_map("ready"), version=version)
        return
    components = principal_components(vectors, COMPONENTS)
    grouping = grouped(vectors, *default_count(items))
    is_flat = not has_neighbours(components)
    state: State = "ready" if is_flat else "refining"
    flat = _fitted(components[:, :2])
    first = CollectionMap(version, state, total, facets, items, vectors, "PCA", flat, grouping)
    yield first
    if not is_flat:
        positions = projection.tsne(components)
        if positions is None:
            yield replace(first, state="ready")
        else:
            yield replace(first, state="ready", method="t-SNE", positions=_fitted(positions))


def _sampled(index: Index) -> tuple[list[Item], Float[np.ndarray, "n d"], int, Facets]:
    """The items on the map, their vectors, the size of the collection and what all its images can be filtered by."""
    total, position = index.count(), 0
    chosen = np.random.default_rng(0).choice(total, min(total, MOST), replace=False)
    is_chosen = np.zeros(total, bool)
    is_chosen[chosen] = True
    items: list[Item] = []
    rows = [np.zeros((0, index.dimensions), np.float32)]
    facets = Facets()
    for found, vectors in index.batches():
        facets.count(found)
        here = np.flatnonzero(is_chosen[position : position + len(found)])
        items += [found[place] for place in here]
        rows.append(vectors[here])
        position += len(found)
    return items, np.concatenate(rows), position, facets


def _fitted(positions: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Shifts and scales positions into the unit square, with the same scale in both directions."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    middle, side = (low + high) / 2, max(float((high - low).max()), 1e-12)
    fitted: Float[np.ndarray, "n 2"] = ((positions - middle) / side + 0.5).astype(np.float64)
    return fitted
