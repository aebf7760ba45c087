"""Clustering measures (NMI, AMI, ARI, pairwise F1), and clustering without a given number of clusters.

scikit-learn takes two seconds to load, so it is imported where it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from embedding_expansion.checks import as_limit, as_number, as_whole, check_name
from embedding_expansion.core.inputs import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.arrays import ROUNDING, as_array, as_cosine
from embedding_expansion.retrieval.inputs import (
    class_indices,
    embedding_rows,
    label_values,
    numbered,
    unit_rows,
)
from embedding_expansion.retrieval.kmeans import kmeans
from embedding_expansion.retrieval.search import nearest

# Peak memory of agglomerative clustering in bytes per pair of rows: the distances, and scikit-learn's copies of them.
BYTES = 25
MOST_ROWS = 20_000
Linkage: TypeAlias = Literal["average", "complete", "single"]
LINKAGES: tuple[Linkage, ...] = ("average", "complete", "single")


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
        InvalidType: embeddings that are not a floating-point matrix, or labels that are not whole numbers.

    Example:
        >>> clustering_metrics(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), [0, 0, 1, 1])
        {'nmi': 1.0, 'f1': 1.0, 'ami': 1.0}

    Source: H. Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding", CVPR 2016 (NMI, F1).
    Differs from the source: AMI is added.
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
    """Measures how well clusters agree with classes.

    Let I be the mutual information of classes and clusters, H the entropy, and E the expectation over random clusters
    of the same sizes. A pair is a pair of different rows.

    - `nmi` is I / ((H(classes) + H(clusters)) / 2), with arithmetic averaging.
    - `ami` is (I - E[I]) / ((H(classes) + H(clusters)) / 2 - E[I]), with arithmetic averaging.
    - `f1` is 2 P R / (P + R). P is the share of the pairs within a cluster that are of one class, R the share of the
      pairs within a class that are in one cluster. It is 1 if there are no pairs of either kind.
    - `ari` is (S - E[S]) / (M - E[S]). S is the number of pairs of one class in one cluster, M the mean of the numbers
      of pairs within a class and of pairs within a cluster.

    Args:
        classes: n whole numbers of up to 64 bits.
        clusters: n whole numbers. A row of cluster -1 is noise and counts as a cluster with no other row.

    Returns:
        The keys `nmi`, `f1`, `ami` and `ari`. 1 is best; `ami` and `ari` are about 0 for random clusters.

    Raises:
        InvalidInput: lengths that do not fit each other, or no rows.
        InvalidType: classes or clusters that are not whole numbers.

    Example:
        >>> measures = partition_metrics([5, 5, 6, 6], [0, 0, 1, -1])
        >>> {name: round(value, 3) for name, value in measures.items()}
        {'nmi': 0.8, 'f1': 0.667, 'ami': 0.571, 'ari': 0.571}

    Source: L. Hubert and P. Arabie, "Comparing partitions", Journal of Classification 1985 (ARI); N. X. Vinh, J. Epps,
        J. Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR 2010 (NMI, AMI). All but F1 are
        computed by scikit-learn's definitions.
    Differs from the source: the treatment of noise.
    """
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    classes = as_array(classes, "classes")
    if classes.size == 0 or classes.ndim == 0:
        raise InvalidInput(f"classes is {classes.tolist()!r}; pass one label per row, and at least one")
    known = numbered(label_values(classes, len(classes), "classes", "classes"))[1]
    found = label_values(clusters, len(known), "clusters", "classes")
    groups, noise = numbered(found)[1], found == -1
    groups[noise] = len(groups) + np.arange(noise.sum())
    with warnings.catch_warnings():
        # With small classes scikit-learn suspects that the labels are the targets of a regression.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        nmi = normalized_mutual_info_score(known, groups, average_method="arithmetic")
        ami = adjusted_mutual_info_score(known, groups, average_method="arithmetic")
        # As Python integers: products of the pair counts of large sets exceed 64 bits.
        (apart, joined), (parted, together) = pair_confusion_matrix(known, groups).tolist()
    pairs = 2 * together + joined + parted
    f1 = 2 * together / pairs if pairs > 0 else 1.0
    # The formula multiplied out. If no pair differs between the partitions, they are equal and the index is 1.
    chance = (together + parted) * (parted + apart) + (together + joined) * (joined + apart)
    ari = 2 * (together * apart - parted * joined) / chance if parted + joined > 0 else 1.0
    return {"nmi": float(nmi), "f1": f1, "ami": float(ami), "ari": ari}


@validates
def agglomerative(
    embeddings: Tensor | np.ndarray,
    *,
    similarity: float | None = None,
    k: int | None = None,
    linkage: Linkage = "average",
) -> Int[Tensor, " n"]:
    """Clusters rows by joining the two most similar clusters until a similarity or a number of clusters is reached.

    Pass either `similarity` or `k`.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm; at most 20,000 rows. The distance of
            every pair is kept, which takes up to 10 GB for 20,000 rows.
        similarity: the smallest cosine at which clusters are joined, -1 to 1. At 1, rows equal up to rounding are
            joined.
        k: the number of clusters, 1 to n.
        linkage: the similarity of two clusters is the mean over their pairs of rows (`average`), that of the least
            similar pair (`complete`) or that of the most similar pair (`single`).

    Returns:
        The cluster of each row, int64, from 0.

    Raises:
        InvalidInput: too many rows, an empty or non-finite matrix, both or neither of `similarity` and `k`, a value out
            of its range, or an unknown linkage.
        InvalidType: embeddings that are not a floating-point matrix, a k that is not a whole number, or a similarity
            that is not a number.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> len(agglomerative(rows, similarity=0.8).unique())
        2

    Source: scikit-learn, `AgglomerativeClustering`.
    Differs from the source: the threshold is a similarity, not a distance.
    """
    rows = embedding_rows(embeddings)
    n = len(rows)
    if n > MOST_ROWS:
        raise InvalidInput(
            f"embeddings has {n} rows, and agglomerative clustering would need {BYTES * n * n / 1e9:.0f} GB for the "
            f"distances; pass at most {MOST_ROWS} rows, or use hdbscan or kmeans"
        )
    check_name("linkage", linkage, LINKAGES)
    if (similarity is None) == (k is None):
        raise InvalidInput("pass one of similarity and k: the least similarity to join at, or the number of clusters")
    k = as_limit(k, "k")
    if k is not None and k > n:
        raise InvalidInput(f"k is {k} but embeddings has {n} rows; pass at most as many clusters as rows")
    least = None if similarity is None else as_cosine(as_number(similarity, "similarity", what="cosine"))
    if least is not None and not -1 <= least <= 1:
        raise InvalidInput(f"similarity is {similarity}; pass a cosine from -1 to 1")
    if n == 1:
        return torch.zeros(1, dtype=torch.int64)
    unit = unit_rows(rows).double()
    apart = (unit @ unit.T).neg_().add_(1).fill_diagonal_(0)
    apart.masked_fill_(apart <= ROUNDING, 0).masked_fill_(apart >= 2 - ROUNDING, 2)
    # scikit-learn joins below its threshold; the next larger number makes it join at the threshold as well.
    most = None if least is None else np.nextafter(1 - least, 3)
    from sklearn.cluster import AgglomerativeClustering

    model: Any = AgglomerativeClustering(  # type: ignore[no-untyped-call]
        k, metric="precomputed", linkage=linkage, distance_threshold=most
    )
    return torch.from_numpy(model.fit_predict(apart.cpu().numpy()).astype(np.int64))


@validates
def hdbscan(
    embeddings: Tensor | np.ndarray, *, min_cluster_size: int = 5, min_samples: int | None = None
) -> Int[Tensor, " n"]:
    """Finds dense groups of the L2-normalised rows and marks the other rows as noise.

    The number of groups need not be known. Memory grows with the number of rows; with more than about ten dimensions,
    time grows with its square.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm.
        min_cluster_size: the fewest rows of a cluster, at least 2.
        min_samples: how many neighbours a dense region needs; None for `min_cluster_size`. A larger number marks more
            rows as noise.

    Returns:
        The cluster of each row, int64, from 0; -1 is noise.

    Raises:
        InvalidInput: an empty or non-finite matrix, fewer rows than `min_cluster_size` or `min_samples`, or one of them
            out of its range.
        InvalidType: embeddings that are not a floating-point matrix, or an option that is not a whole number.

    Example:
        >>> turns = np.array([0.0, 0.01, 0.02, 1.0, 1.01, 1.02, 2.5])
        >>> rows = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        >>> hdbscan(rows, min_cluster_size=3).tolist()
        [0, 0, 0, 1, 1, 1, -1]

    Source: R. J. G. B. Campello, D. Moulavi, J. Sander, "Density-Based Clustering Based on Hierarchical Density
        Estimates", PAKDD 2013, as implemented in scikit-learn.
    Differs from the source: nothing.
    """
    rows = embedding_rows(embeddings)
    size = as_whole(min_cluster_size, "min_cluster_size", least=2)
    samples = as_limit(min_samples, "min_samples") or size
    if max(size, samples) > len(rows):
        raise InvalidInput(
            f"min_cluster_size is {size} and min_samples {samples} but embeddings has {len(rows)} rows; pass fewer"
        )
    from sklearn.cluster import HDBSCAN

    model: Any = HDBSCAN(size, samples, copy=True)  # type: ignore[no-untyped-call]
    return torch.from_numpy(model.fit_predict(unit_rows(rows).cpu().numpy()).astype(np.int64))


@validates
def louvain(embeddings: Tensor | np.ndarray, *, neighbours: int = 10, seed: int = 0) -> Int[Tensor, " n"]:
    """Finds communities in the graph of mutual nearest neighbours by maximising its modularity.

    The number of clusters need not be known. The graph has an edge between two rows if each is among the nearest
    neighbours of the other, with their cosine as its weight; cosines below 0.001 count as 0.001. A row without an edge
    is noise.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm.
        neighbours: how many nearest neighbours of each row are considered; fewer where there are fewer rows.
        seed: of the order in which rows are visited.

    Returns:
        The cluster of each row, int64, from 0; -1 is noise.

    Raises:
        InvalidInput: an empty or non-finite matrix, or `neighbours` below 1.
        InvalidType: embeddings that are not a floating-point matrix, or an option that is not a whole number.

    Example:
        >>> turns = np.array([0.0, 0.01, 0.02, 1.5, 1.51, 1.52])
        >>> louvain(np.stack([np.cos(turns), np.sin(turns)], axis=1), neighbours=2).tolist()
        [0, 0, 0, 1, 1, 1]

    Source: V. D. Blondel, J.-L. Guillaume, R. Lambiotte, E. Lefebvre, "Fast unfolding of communities in large
        networks", Journal of Statistical Mechanics 2008, as implemented in NetworkX, with a resolution of 1.
    Differs from the source: nothing; the graph is ours.
    """
    rows = embedding_rows(embeddings)
    wanted, n = as_whole(neighbours, "neighbours", least=1), len(rows)
    seed = as_whole(seed, "seed", least=0)
    found = torch.full((n,), -1)
    if n == 1:
        return found
    import networkx

    unit = unit_rows(rows)
    values, columns = nearest(unit, unit, min(wanted, n - 1), exclude=torch.arange(n))
    graph = networkx.Graph()
    graph.add_nodes_from(range(n))
    cosines = [
        dict(zip(near, row, strict=True))
        for near, row in zip(columns.tolist(), values.clamp(min=1e-3).tolist(), strict=True)
    ]
    for row, near in enumerate(cosines):
        graph.add_weighted_edges_from(
            (row, other, near[other]) for other in near if row < other and row in cosines[other]
        )
    parts = networkx.community.louvain_communities(graph, seed=seed)
    for number, members in enumerate(sorted(sorted(part) for part in parts if len(part) > 1)):
        found[members] = number
    return found


@validates
def silhouette(embeddings: Tensor | np.ndarray, clusters: Tensor | np.ndarray | Sequence[int]) -> float:
    """The mean silhouette of the rows that are in a cluster, by cosine distance.

    The silhouette of a row is (b - a) / max(a, b), where a is its mean distance to the other rows of its cluster and b
    the smallest mean distance to the rows of another cluster. It is 0 for a row alone in its cluster.

    Args:
        embeddings: (n, d), a floating-point tensor or NumPy array of any norm.
        clusters: n whole numbers; rows of cluster -1 are noise and left out.

    Returns:
        A number from -1 to 1; 0 with fewer than two clusters. Computed from the sums of the clusters, in memory that
        grows with n times the number of clusters.

    Raises:
        InvalidInput, InvalidType: embeddings or clusters that cannot be used.

    Example:
        >>> silhouette(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), [0, 0, 1])
        0.6666666666666666

    Source: P. J. Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis",
        Journal of Computational and Applied Mathematics 1987.
    Differs from the source: noise is left out.
    """
    rows = embedding_rows(embeddings)
    given = label_values(clusters, len(rows), "clusters", "embeddings")
    unit = unit_rows(rows).double().cpu().numpy()[given != -1]
    names, labels, sizes = np.unique(given[given != -1], return_inverse=True, return_counts=True)
    if len(names) < 2:
        return 0.0
    sums = np.zeros((len(names), unit.shape[1]))
    np.add.at(sums, labels, unit)
    products, every = unit @ sums.T, np.arange(len(unit))
    own = 1 - (products[every, labels] - 1) / np.maximum(sizes[labels] - 1, 1)
    products /= sizes
    products[every, labels] = -np.inf
    other = 1 - products.max(axis=1)
    values = (other - own) / np.maximum(np.maximum(own, other), 1e-12)
    return float(np.where(sizes[labels] > 1, values, 0.0).mean())
