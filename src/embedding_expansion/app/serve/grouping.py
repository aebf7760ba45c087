"""Clusters of the images on the map, by k-means: how many there are by default, and who belongs to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.retrieval.index import Item

#: The most clusters by default: as many as there are labels, or else what a person can look through.
MOST_BY_LABELS, MOST_BY_SIZE = 500, 48
#: The most clusters on request.
MOST_CLUSTERS = 1000

#: What decided the number of clusters: the labels, the number of images, or the request.
Decided = Literal["labels", "size", "request"]


@dataclass(frozen=True)
class Grouping:
    """The clusters of some images.

    Attributes:
        cluster: the cluster of each image; 0 is the largest.
        closeness: the cosine similarity of each image to the centre of its cluster.
        decided: what decided the number of clusters.
    """

    cluster: Int[np.ndarray, " n"]
    closeness: Float[np.ndarray, " n"]
    decided: Decided

    def members(self, cluster: int) -> Int[np.ndarray, " m"]:
        """Indices of a cluster's images, the closest to its centre first."""
        found = np.flatnonzero(self.cluster == cluster)
        return found[np.argsort(-self.closeness[found], kind="stable")]

    @property
    def count(self) -> int:
        """Number of clusters."""
        return int(self.cluster.max()) + 1 if len(self.cluster) else 0


def no_grouping() -> Grouping:
    """The clusters of no images."""
    return Grouping(np.zeros(0, np.int64), np.zeros(0), "size")


def default_count(items: Sequence[Item]) -> tuple[int, Decided]:
    """The number of labels of these images; without labels, the square root of half the number of images.

    A single label says nothing about clusters, and counts as none.
    """
    labels = len({item.label for item in items if item.label is not None})
    if labels > 1:
        return min(labels, MOST_BY_LABELS), "labels"
    return max(1, min(MOST_BY_SIZE, round((len(items) / 2) ** 0.5))), "size"


def grouped(vectors: Float[np.ndarray, "n d"], k: int, decided: Decided) -> Grouping:
    """k-means: the clusters, the largest first. There are fewer than k if there are fewer images, or equal ones."""
    from embedding_expansion.retrieval.kmeans import kmeans

    if not len(vectors):
        return no_grouping()
    found = kmeans(vectors, min(k, len(vectors)))
    assignment, centers = found.assignment.cpu().numpy(), found.centers.cpu().numpy()
    sizes = np.bincount(assignment, minlength=len(centers))
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(centers), np.int64)
    rank[order] = np.arange(len(centers))
    lengths = np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-12)
    closeness = (vectors * (centers / lengths)[assignment]).sum(axis=1)
    return Grouping(rank[assignment], closeness.astype(np.float64), decided)
