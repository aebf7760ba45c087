"""Clusters the vectors of a collection: assignment, similarity to the centre, and a representative per cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.checks import as_limit, as_whole, check_name, validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import as_array, unit_vectors

METHODS = ("louvain", "kmeans", "agglomerative", "hdbscan")
#: Mean silhouettes from which on the words hold, the largest first (Kaufman and Rousseeuw, "Finding Groups in Data",
#: 1990, who found them by experience).
_SURE = (
    (0.7, "the clusters are clearly apart"),
    (0.5, "most clusters are apart"),
    (0.25, "the clusters touch, so look at them before you rely on them"),
    (-1.0, "the clusters overlap, so another method or seed would draw many borders elsewhere"),
)


@dataclass(frozen=True)
class Clustering:
    """Clusters, the largest first.

    Attributes:
        cluster: (n,), the number of each row's cluster. 0 is the largest cluster; ties go to the cluster with the
            earlier first row. -1 is noise.
        similarity: (n,), each row's cosine similarity to the centre of its cluster, the mean of its unit rows; NaN for
            noise.
        sizes: (c,), the number of rows of each cluster.
        representatives: (c,), the row closest to the centre of each cluster; the first one in a tie.
        method: one of `METHODS`.
        reason: how the method was chosen, in words.
        silhouette: how far the clusters are apart, from -1 to 1: the mean silhouette by cosine distance.
    """

    cluster: Int[np.ndarray, " n"]
    similarity: Float[np.ndarray, " n"]
    sizes: Int[np.ndarray, " c"]
    representatives: Int[np.ndarray, " c"]
    method: str
    reason: str
    silhouette: float

    @property
    def sure(self) -> str:
        """What the silhouette says about how far the clusters can be trusted, in words."""
        if len(self.sizes) < 2:
            return "there is one cluster at most, so nothing says how sure it is"
        words = next(words for least, words in _SURE if self.silhouette >= least)
        return f"mean silhouette {self.silhouette:.2f}: {words}"

    @property
    def noise(self) -> int:
        """Number of rows without a cluster."""
        return int((self.cluster < 0).sum())

    def members(self, number: int) -> Int[np.ndarray, " _"]:
        """The rows of a cluster, the closest to its centre first, ties by row. Number -1 gives the noise."""
        number = as_whole(number, "number", least=-1)
        rows = np.flatnonzero(self.cluster == number)
        return rows if number < 0 else rows[np.argsort(-self.similarity[rows], kind="stable")]


@validates
def cluster(
    vectors: np.ndarray,
    *,
    method: str | None = None,
    k: int | None = None,
    similarity: float | None = None,
    min_cluster_size: int | None = None,
    seed: int = 0,
) -> Clustering:
    """Clusters vectors by cosine similarity.

    Args:
        vectors: (n, d), floating-point, of any norm.
        method: "louvain" (communities of mutual nearest neighbours), "kmeans", "agglomerative" (average linkage) or
            "hdbscan". None takes k-means if k is given, agglomerative if a similarity is given, hdbscan if
            `min_cluster_size` is given, and louvain otherwise, which finds the number of clusters.
        k: the number of clusters, for k-means and agglomerative. Equal rows can give fewer clusters.
        similarity: for agglomerative instead of k: clusters with a smaller similarity are not merged.
        min_cluster_size: for hdbscan: the smallest size of a cluster; None means 5.
        seed: random seed of louvain and k-means; the other methods are deterministic.

    Raises:
        InvalidInput: an option does not apply to the method, is missing or is out of range, or `vectors` is not a
            matrix of finite rows other than zero.
        InvalidType: vectors or numbers have the wrong type.

    Example:
        >>> turns = np.array([0.0, 0.1, 0.2, 2.0])
        >>> found = cluster(np.stack([np.cos(turns), np.sin(turns)], axis=1), k=2)
        >>> found.cluster.tolist(), found.representatives.tolist(), found.reason
        ([0, 0, 0, 1], [1, 3], 'k-means, because the number of clusters is given')
    """
    rows, seed = as_array(vectors, "vectors"), as_whole(seed, "seed", least=0)
    if rows.ndim != 2 or len(rows) == 0:
        raise InvalidInput(f"vectors has the shape {rows.shape}; pass a matrix with one row per image")
    units = unit_vectors(rows, rows.shape[1])
    chosen, reason = choose(method, k=k, similarity=similarity, min_cluster_size=min_cluster_size)
    found = _assigned(units, chosen, k, similarity, min_cluster_size, seed)
    numbers, sizes = _numbered(found)

    from embedding_expansion.retrieval.clustering import silhouette as mean_silhouette  # torch

    closeness = _closeness(units, numbers, sizes)
    order = np.lexsort((np.arange(len(units)), -closeness, numbers))
    first = order[np.searchsorted(numbers[order], np.arange(len(sizes)))]
    return Clustering(numbers, closeness, sizes, first, chosen, reason, mean_silhouette(units, numbers))


@validates
def choose(
    method: str | None = None,
    *,
    k: int | None = None,
    similarity: float | None = None,
    min_cluster_size: int | None = None,
) -> tuple[str, str]:
    """Chooses the clustering method from the options of `cluster`; returns it with the reason.

    Raises:
        InvalidInput: options contradict each other, or k is below 1.
        InvalidType: k is not a whole number.
    """
    if method is not None:
        check_name("method", method, METHODS)
    as_limit(k, "k")
    chosen, reason = _chosen(method, k, similarity, min_cluster_size)
    _refuse(chosen, k=k, similarity=similarity, min_cluster_size=min_cluster_size)
    return chosen, reason


def _chosen(
    method: str | None, k: int | None, similarity: float | None, min_cluster_size: int | None
) -> tuple[str, str]:
    if method is not None:
        return method, f"{_IN_WORDS[method]}, as requested"
    if k is not None:
        return "kmeans", "k-means, because the number of clusters is given"
    if similarity is not None:
        return "agglomerative", "agglomerative, because a similarity is given"
    if min_cluster_size is not None:
        return "hdbscan", "hdbscan, because the smallest size of a cluster is given"
    return "louvain", (
        "louvain, because the number of clusters is not given: it finds communities of mutual nearest neighbours"
    )


_IN_WORDS = {"louvain": "louvain", "kmeans": "k-means", "agglomerative": "agglomerative", "hdbscan": "hdbscan"}
_USES: dict[str, tuple[str, ...]] = {
    "louvain": (),
    "kmeans": ("k",),
    "agglomerative": ("k", "similarity"),
    "hdbscan": ("min_cluster_size",),
}


def _refuse(method: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None and name not in _USES[method]:
            taken = " or ".join(_USES[method])
            takes = f"only takes {taken}" if taken else "takes no such option"
            raise InvalidInput(f"{name} is {value}, but {_IN_WORDS[method]} {takes}; omit it, or pass another method")
    if method == "kmeans" and options["k"] is None:
        raise InvalidInput(
            "k-means needs k, the number of clusters; pass k, or choose louvain, which finds the number itself"
        )


def _assigned(
    units: Float[np.ndarray, "n d"],
    method: str,
    k: int | None,
    similarity: float | None,
    min_cluster_size: int | None,
    seed: int,
) -> Int[np.ndarray, " n"]:
    from embedding_expansion.retrieval import clustering, kmeans  # torch, scikit-learn

    if method == "kmeans":
        assert k is not None  # checked by _refuse
        return kmeans.kmeans(units, k, seed=seed).assignment.numpy()
    if method == "louvain":
        return clustering.louvain(units, seed=seed).numpy()
    if method == "agglomerative":
        return clustering.agglomerative(units, k=k, similarity=similarity).numpy()
    return clustering.hdbscan(units, min_cluster_size=5 if min_cluster_size is None else min_cluster_size).numpy()


def _numbered(found: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " c"]]:
    """Numbers clusters by decreasing size; returns the assignment and the sizes."""
    names, first, place, sizes = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(names >= 0)
    order = kept[np.lexsort((first[kept], -sizes[kept]))]
    number = np.full(len(names), -1)
    number[order] = np.arange(len(order))
    return number[place], sizes[order]


def _closeness(
    units: Float[np.ndarray, "n d"], numbers: Int[np.ndarray, " n"], sizes: Int[np.ndarray, " c"]
) -> Float[np.ndarray, " n"]:
    """The cosine similarity of each row to the mean of its cluster."""
    closeness = np.full(len(units), np.nan)
    order = np.argsort(numbers, kind="stable")[int((numbers < 0).sum()) :]
    for rows in np.split(order, np.cumsum(sizes)[:-1]) if len(sizes) else []:
        members = units[rows].astype(np.float64)
        centre = members.mean(axis=0)
        closeness[rows] = members @ centre / max(float(np.linalg.norm(centre)), 1e-12)
    return closeness
