"""Clustering measures, NMI, AMI, ARI and pairwise F1, and clusters where nobody knows how many there are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from sklearn.cluster import HDBSCAN, AgglomerativeClustering
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix
from torch import Tensor

from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName
from embedding_expansion.retrieval.arrays import ROUNDING, as_array, as_cosine
from embedding_expansion.retrieval.inputs import (
    class_indices,
    embedding_rows,
    label_values,
    numbered,
    positive_integer,
    unit_rows,
)
from embedding_expansion.retrieval.kmeans import kmeans

# Agglomerative clustering takes so many bytes at its peak, times the square of the rows: the distances, and what
# scikit-learn makes of them.
BYTES = 25
MOST_ROWS = 20_000
LINKAGES = ("average", "complete", "single")


@validates
def clustering_metrics(
    embeddings: Tensor | np.ndarray, labels: Tensor | np.ndarray | Sequence[int], *, seed: int = 0
) -> dict[str, float]:
    """Measures how well k-means on the L2-normalised embeddings, k the number of classes, finds the classes.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm.
        labels: n whole numbers of up to 64 bits.
        seed: of k-means.

    Returns:
        The measures of `partition_metrics` under the keys `nmi`, `f1` and `ami`.

    Raises:
        InvalidInput: an empty or non-finite matrix, or labels that do not fit it.
        InvalidType: embeddings that are no floating-point matrix, or labels that are no whole numbers.

    Example:
        >>> clustering_metrics(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), [0, 0, 1, 1])
        {'nmi': 1.0, 'f1': 1.0, 'ami': 1.0}

    Source: H. Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016 (NMI, F1).
    Differs from the source: AMI comes with them.
    """
    rows = unit_rows(embedding_rows(embeddings))
    classes = class_indices(labels, len(rows))
    clusters = kmeans(rows, int(classes.max()) + 1, seed=seed).assignment
    measures = partition_metrics(classes, clusters)
    return {name: measures[name] for name in ("nmi", "f1", "ami")}


@validates
def partition_metrics(
    classes: Tensor | np.ndarray | Sequence[int], clusters: Tensor | np.ndarray | Sequence[int]
) -> dict[str, float]:
    """Measures how well clusters, however they were found, are the classes.

    With I the mutual information of classes and clusters, H the entropy, E the expectation for clusters of these sizes
    drawn at random, and pairs of different rows:

    - `nmi` is I / ((H(classes) + H(clusters)) / 2), the arithmetic averaging.
    - `ami` is (I - E[I]) / ((H(classes) + H(clusters)) / 2 - E[I]), the arithmetic averaging too.
    - `f1` is 2 P R / (P + R); P is the share of pairs of one cluster that are of one class, R the share of pairs of one
      class that are of one cluster. It is 1 where there is no pair of either kind.
    - `ari` is (S - E[S]) / (M - E[S]), S the number of pairs of one class and one cluster, M the mean of the numbers of
      pairs of one class and of pairs of one cluster.

    Args:
        classes: n whole numbers of up to 64 bits.
        clusters: n whole numbers. A row of cluster -1 is noise, which is a cluster of its own.

    Returns:
        The keys `nmi`, `f1`, `ami` and `ari`; 1 is best, 0 or about 0 is chance for `ami` and `ari`.

    Raises:
        InvalidInput: lengths that do not fit each other, or no row at all.
        InvalidType: classes or clusters that are no whole numbers.

    Example:
        >>> measures = partition_metrics([5, 5, 6, 6], [0, 0, 1, -1])
        >>> {name: round(value, 3) for name, value in measures.items()}
        {'nmi': 0.8, 'f1': 0.667, 'ami': 0.571, 'ari': 0.571}

    Source: L. Hubert and P. Arabie, "Comparing partitions", Journal of Classification 1985 (ARI); N. X. Vinh, J. Epps,
        J. Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR 2010 (NMI, AMI); all but F1 as in
        scikit-learn.
    Differs from the source: noise.
    """
    classes = as_array(classes, "classes")
    if classes.size == 0 or classes.ndim == 0:
        raise InvalidInput(f"classes is {classes.tolist()!r}; pass one label per row, and at least one")
    known = numbered(label_values(classes, len(classes), "classes", "classes"))[1]
    found = label_values(clusters, len(known), "clusters", "classes")
    groups, noise = numbered(found)[1], found == -1
    groups[noise] = len(groups) + np.arange(noise.sum())
    with warnings.catch_warnings():
        # Where classes are small scikit-learn suspects that a regression's targets were passed for labels.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        nmi = normalized_mutual_info_score(known, groups, average_method="arithmetic")
        ami = adjusted_mutual_info_score(known, groups, average_method="arithmetic")
        # Python integers: products and sums of pair counts of large sets leave the range of fixed-width ones.
        (apart, joined), (parted, together) = pair_confusion_matrix(known, groups).tolist()
    pairs = 2 * together + joined + parted
    f1 = 2 * together / pairs if pairs > 0 else 1.0
    # The pairs of the table multiplied out; without such pairs or with such pairs only both partitions are one.
    chance = (together + parted) * (parted + apart) + (together + joined) * (joined + apart)
    ari = 2 * (together * apart - parted * joined) / chance if parted + joined > 0 else 1.0
    return {"nmi": float(nmi), "f1": f1, "ami": float(ami), "ari": ari}


@validates
def agglomerative(
    embeddings: Tensor | np.ndarray, *, similarity: float | None = None, k: int | None = None, linkage: str = "average"
) -> Int[Tensor, " n"]:
    """Joins the two most similar clusters again and again, from single rows on, by the cosine.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm; at most 20,000 rows, because the
            distance of every pair is held: 10 GB at the peak for so many.
        similarity: clusters less similar than this are not joined, -1 to 1; at 1 rows equal up to rounding are.
        k: the number of clusters to stop at, 1 to n; one of the two is given.
        linkage: the similarity of two clusters is that of their pairs on `average`, that of the least similar pair
            (`complete`) or of the most similar one (`single`).

    Returns:
        The cluster of each row, int64, from 0.

    Raises:
        InvalidInput: too many rows, an empty or non-finite matrix, not one of `similarity` and `k`, or one out of its
            range or unknown.
        InvalidType: embeddings that are no floating-point matrix, a k that is no whole number, a similarity that is
            none.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> len(agglomerative(rows, similarity=0.8).unique())
        2

    Source: scikit-learn, `AgglomerativeClustering`.
    Differs from the source: a similarity bounds the joining, not a distance.
    """
    rows = embedding_rows(embeddings)
    n = len(rows)
    if n > MOST_ROWS:
        raise InvalidInput(
            f"embeddings has {n} rows, and agglomerative clustering would need {BYTES * n * n / 1e9:.0f} GB for the "
            f"distances; pass at most {MOST_ROWS} rows, or use hdbscan or kmeans"
        )
    if linkage not in LINKAGES:
        raise UnknownName("linkage", linkage, LINKAGES)
    if (similarity is None) == (k is None):
        raise InvalidInput("pass one of similarity and k: the least similarity to join at, or the number of clusters")
    if k is not None and positive_integer(k, "k") > n:
        raise InvalidInput(f"k is {k} but embeddings has {n} rows; pass at most as many clusters as rows")
    if isinstance(similarity, bool) or not isinstance(similarity, (int, float, np.floating, type(None))):
        raise InvalidType(f"similarity is {similarity!r}; pass a cosine from -1 to 1")
    if similarity is not None and not -1 <= as_cosine(float(similarity)) <= 1:
        raise InvalidInput(f"similarity is {similarity}; pass a cosine from -1 to 1")
    if n == 1:
        return torch.zeros(1, dtype=torch.int64)
    unit = unit_rows(rows).double()
    apart = (unit @ unit.T).neg_().add_(1).fill_diagonal_(0)
    apart.masked_fill_(apart <= ROUNDING, 0).masked_fill_(apart >= 2 - ROUNDING, 2)
    # It stops below its threshold, and clusters of just this similarity are joined here.
    most = None if similarity is None else np.nextafter(1 - as_cosine(float(similarity)), 3)
    model: Any = AgglomerativeClustering(  # type: ignore[no-untyped-call]
        k, metric="precomputed", linkage=linkage, distance_threshold=most
    )
    return torch.from_numpy(model.fit_predict(apart.cpu().numpy()).astype(np.int64))


@validates
def hdbscan(
    embeddings: Tensor | np.ndarray, *, min_cluster_size: int = 5, min_samples: int | None = None
) -> Int[Tensor, " n"]:
    """Finds dense groups of the L2-normalised rows and leaves the rest as noise; the number of groups comes out.

    Memory grows with the number of rows. Time grows with its square where there are more than some ten dimensions.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm.
        min_cluster_size: the fewest rows of a cluster, at least 2.
        min_samples: the neighbours that make a row's surroundings dense; None for `min_cluster_size`. More of them
            leave more noise.

    Returns:
        The cluster of each row, int64, from 0; -1 is noise.

    Raises:
        InvalidInput: an empty or non-finite matrix, fewer rows than `min_cluster_size` or `min_samples`, or one of them
            out of its range.
        InvalidType: embeddings that are no floating-point matrix, or an option that is no whole number.

    Example:
        >>> turns = np.array([0.0, 0.01, 0.02, 1.0, 1.01, 1.02, 2.5])
        >>> rows = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        >>> hdbscan(rows, min_cluster_size=3).tolist()
        [0, 0, 0, 1, 1, 1, -1]

    Source: R. J. G. B. Campello, D. Moulavi, J. Sander, "Density-Based Clustering Based on Hierarchical Density
        Estimates", PAKDD 2013, as scikit-learn has it.
    Differs from the source: nothing differs.
    """
    rows = embedding_rows(embeddings)
    size = positive_integer(min_cluster_size, "min_cluster_size")
    samples = size if min_samples is None else positive_integer(min_samples, "min_samples")
    if size < 2:
        raise InvalidInput("min_cluster_size is 1; pass at least 2, a single row is noise")
    if max(size, samples) > len(rows):
        raise InvalidInput(
            f"min_cluster_size is {size} and min_samples {samples} but embeddings has {len(rows)} rows; pass fewer"
        )
    model: Any = HDBSCAN(size, samples, copy=True)  # type: ignore[no-untyped-call]
    return torch.from_numpy(model.fit_predict(unit_rows(rows).cpu().numpy()).astype(np.int64))
