"""Which method clusters images best where nobody says how many clusters there are: candidates on four sets.

The vectors are the features of a MobileNetV2 as it comes, of at most 1,500 test images of CUB-200-2011, CARS196,
Omniglot (each of them, or a part) and the glyphs, 128 pixels wide. Whole classes are taken, evenly spaced. `--split
train` measures the training classes instead, which the choice has not seen.

The rule, written before the first run: a candidate's shortfall on a set is the difference of its AMI and the best AMI
of a candidate on this set. The default is the candidate whose largest shortfall over the four sets of test classes is
the smallest; among those within 0.01 of it, the one that takes the least time. k-means with the number of classes is
shown beside the candidates, and is none, as nobody knows that number.

`--sure METHOD` measures instead how well two measures of certainty follow the AMI of a method, over the sets and parts
of them with 5, 10 and 20 classes: the mean silhouette, and the stability, the ARI of the clusterings of two random
samples of 80% of the rows, on the rows that both have.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import scipy.sparse
import torch
from scipy.cluster import hierarchy
from scipy.sparse.csgraph import connected_components
from scipy.stats import spearmanr
from sklearn.cluster import HDBSCAN

import harness
from embedding_expansion import kmeans, nearest, open_dataset, partition_metrics
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.data.transforms import transform_of
from embedding_expansion.model.plain_backbone import open_backbone
from embedding_expansion.training.evaluation import embed_images, model_embedder

MOST = 1500  # images of a set
STEPS = 24  # numbers of clusters that a silhouette chooses from
Found = np.ndarray  # (n,), the cluster of each row, -1 for none


def vectors_of(
    name: str, root: Path | None, split: str, weights: str | None, most: int = MOST, size: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    """The unit features of a set, and their classes."""
    half = [0.5, 0.5, 0.5]
    plain = open_backbone("mobilenet_v2", weights=weights, mean=half, std=half, image_size=size)
    dataset = open_dataset(name, root=root, part=True)
    images = dataset.test if split == "test" else dataset.train
    classes, counts = np.unique(images.labels, return_counts=True)
    count = min(len(classes), int(most / counts.mean()))
    kept = classes[np.unique(np.linspace(0, len(classes) - 1, count).round().astype(int))]
    images = images.subset(np.flatnonzero(np.isin(images.labels, kept)))
    preprocessing = Preprocessing(plain.preprocessing.size) if dataset.transform == "none" else plain.preprocessing
    embed = model_embedder(plain.model.eval(), torch.device("cpu"), "float32")
    vectors, images = embed_images(embed, images, transform_of(preprocessing), workers=0, broken={})
    return vectors.numpy(), images.labels


def silhouette(units: np.ndarray, found: Found) -> float:
    """The mean silhouette of the rows that are in a cluster, with the cosine distance; rows alone count as 0."""
    rows = units[found >= 0]
    _, labels, sizes = np.unique(found[found >= 0], return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return 0.0
    sums = np.zeros((len(sizes), rows.shape[1]), dtype=np.float32)
    np.add.at(sums, labels, rows)
    products, at = rows @ sums.T, np.arange(len(rows))
    own = 1 - (products[at, labels] - 1) / np.maximum(sizes[labels] - 1, 1)
    products /= sizes
    products[at, labels] = -np.inf
    other = 1 - products.max(axis=1)
    values = (other - own) / np.maximum(np.maximum(own, other), 1e-12)
    return float(np.where(sizes[labels] > 1, values, 0).mean())


def counts(n: int) -> list[int]:
    """Numbers of clusters to choose from, from 2 to a third of the rows, in equal ratios."""
    return sorted({round(k) for k in np.geomspace(2, n / 3, STEPS)})


def best(units: np.ndarray, candidates: list[Found]) -> Found:
    """The candidate of the highest silhouette."""
    return max(candidates, key=lambda found: silhouette(units, found))


def hdbscan(units: np.ndarray, size: int, samples: int, selection: str, spread: bool = False) -> Found:
    found = HDBSCAN(size, min_samples=samples, cluster_selection_method=selection, copy=True).fit_predict(units)
    if spread and (found >= 0).any():
        names = np.unique(found[found >= 0])
        centres = np.stack([units[found == name].mean(axis=0) for name in names])
        found = np.where(found < 0, names[(units @ centres.T).argmax(axis=1)], found)
    return np.asarray(found)


def kmeans_of(units: np.ndarray, k: int) -> Found:
    return kmeans(units, k, seed=0).assignment.numpy()


def kmeans_by_silhouette(units: np.ndarray) -> Found:
    return best(units, [kmeans_of(units, k) for k in counts(len(units))])


def linkage_by_silhouette(units: np.ndarray, method: str) -> Found:
    """A hierarchy, cut where the silhouette is the highest."""
    if method == "ward":
        tree = hierarchy.linkage(units, "ward")
    else:
        apart = np.maximum(1 - units @ units.T, 0)
        tree = hierarchy.linkage(apart[np.triu_indices(len(units), 1)], method)
    return best(units, [hierarchy.fcluster(tree, k, "maxclust") for k in counts(len(units))])


def graph_of(units: np.ndarray, k: int, mutual: bool) -> scipy.sparse.csr_array:
    """The k nearest neighbours of each row, weighted by their cosine, where both see each other, or one of them."""
    values, columns = nearest(torch.from_numpy(units), torch.from_numpy(units), k, exclude=torch.arange(len(units)))
    n = len(units)
    entries = values.clamp(min=1e-3).numpy().ravel(), (np.repeat(np.arange(n), k), columns.numpy().ravel())
    graph = scipy.sparse.csr_array(entries, shape=(n, n))
    return scipy.sparse.csr_array(graph.minimum(graph.T) if mutual else graph.maximum(graph.T))


def louvain(units: np.ndarray, k: int = 10, *, mutual: bool = True, resolution: float = 1.0) -> Found:
    graph = networkx.from_scipy_sparse_array(graph_of(units, k, mutual))
    found = np.zeros(len(units), dtype=np.int64)
    for number, members in enumerate(networkx.community.louvain_communities(graph, resolution=resolution, seed=0)):
        found[list(members)] = number
    return found


def louvain_by_silhouette(units: np.ndarray) -> Found:
    return best(units, [louvain(units, mutual=False, resolution=2.0**power) for power in range(6)])


def kmeans_by_louvain(units: np.ndarray) -> Found:
    """k-means with as many clusters as Louvain finds with more than one row."""
    sizes = np.bincount(louvain(units))
    return kmeans_of(units, max(1, int((sizes > 1).sum())))


def finch_by_silhouette(units: np.ndarray) -> Found:
    """First neighbours, joined again and again (Sarfraz et al., CVPR 2019); the level of the highest silhouette."""
    levels, found, points = list[Found](), np.arange(len(units)), units
    while len(points) > 2:
        _, first = nearest(torch.from_numpy(points), torch.from_numpy(points), 1, exclude=torch.arange(len(points)))
        n = len(points)
        links = scipy.sparse.csr_array((np.ones(n), (np.arange(n), first.numpy().ravel())), shape=(n, n))
        number, joined = connected_components(links, directed=False)
        found = joined[found]
        if number < 2:
            break
        levels.append(found)
        points = np.stack([units[found == each].mean(axis=0) for each in range(number)])
        points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    return best(units, levels) if levels else found


CANDIDATES: dict[str, Callable[[np.ndarray], Found]] = {
    "HDBSCAN 5/5": functools.partial(hdbscan, size=5, samples=5, selection="eom"),
    "HDBSCAN 5/1": functools.partial(hdbscan, size=5, samples=1, selection="eom"),
    "HDBSCAN 5/1, leaves": functools.partial(hdbscan, size=5, samples=1, selection="leaf"),
    "HDBSCAN 5/1, leaves, no noise": functools.partial(hdbscan, size=5, samples=1, selection="leaf", spread=True),
    "k-means, silhouette": kmeans_by_silhouette,
    "average linkage, silhouette": functools.partial(linkage_by_silhouette, method="average"),
    "Ward, silhouette": functools.partial(linkage_by_silhouette, method="ward"),
    "Louvain, mutual": louvain,
    "Louvain, either": functools.partial(louvain, mutual=False),
    "Louvain, either, silhouette": louvain_by_silhouette,
    "k-means, k of Louvain": kmeans_by_louvain,
    "FINCH, silhouette": finch_by_silhouette,
}


def stability(units: np.ndarray, method: Callable[[np.ndarray], Found]) -> float:
    """The ARI of the clusterings of two samples of 80% of the rows, on the rows that both have."""
    draw, n = np.random.default_rng(0), len(units)
    found = np.full((2, n), -1)
    rows = [np.sort(draw.permutation(n)[: round(0.8 * n)]) for _ in range(2)]
    for place, chosen in enumerate(rows):
        found[place, chosen] = method(units[chosen])
    both = np.intersect1d(*rows)
    return partition_metrics(found[0, both], found[1, both])["ari"]


def compare(sets: dict[str, tuple[np.ndarray, np.ndarray]], only: list[str]) -> list[dict[str, Any]]:
    """A row for each candidate and set: AMI, clusters, noise and seconds."""
    rows = []
    for name, (units, labels) in sets.items():
        number = len(np.unique(labels))
        known = {"k-means, known k": functools.partial(kmeans_of, k=number)}
        for method, run in (known | CANDIDATES).items():
            if only and method not in only:
                continue
            began = time.perf_counter()
            found = run(units)
            row = {
                "set": name,
                "images": len(units),
                "classes": len(np.unique(labels)),
                "method": method,
                "seconds": time.perf_counter() - began,
                "clusters": len(np.unique(found[found >= 0])),
                "noise": int((found < 0).sum()),
                "silhouette": silhouette(units, found),
            } | partition_metrics(labels, found)
            rows.append(row)
            shown = "{set}, {images} of {classes}: {method}: AMI {ami:.3f}, {clusters} clusters, {noise} noise, "
            print((shown + "silhouette {silhouette:.3f}, {seconds:.1f} s").format(**row), flush=True)
    return rows


def parts(units: np.ndarray, labels: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The set, and parts of it with 5, 10 and 20 classes, evenly spaced."""
    classes, found = np.unique(labels), {"all": (units, labels)}
    for count in (5, 10, 20):
        kept = np.isin(labels, classes[np.linspace(0, len(classes) - 1, count).round().astype(int)])
        found[str(count)] = units[kept], labels[kept]
    return found


def how_sure(sets: dict[str, tuple[np.ndarray, np.ndarray]], method: str) -> list[dict[str, Any]]:
    """Silhouette, stability and AMI of a method, for all sets and their parts."""
    rows, run = [], CANDIDATES[method]
    for name, whole in sets.items():
        for part, (units, labels) in parts(*whole).items():
            found = run(units)
            sure = {"silhouette": silhouette(units, found), "stability": stability(units, run)}
            row = {"set": name, "classes": part, "clusters": len(np.unique(found[found >= 0]))} | sure
            rows.append(row | partition_metrics(labels, found))
            text = "{set}, {classes}: {clusters} clusters, AMI {ami:.3f}, silhouette {silhouette:.3f}, "
            print((text + "stability {stability:.3f}").format(**rows[-1]), flush=True)
    for name in ("silhouette", "stability"):
        value = spearmanr([row[name] for row in rows], [row["ami"] for row in rows]).statistic
        print(f"rank correlation of the AMI with the {name}: {value:.3f}")
    return rows


def shortfalls(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """The AMI of each candidate on each set, its largest shortfall and its seconds."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    table = {method: {row["set"]: row for row in rows if row["method"] == method} for method in CANDIDATES}
    table = {method: found for method, found in table.items() if found}
    top = {name: max(found[name]["ami"] for found in table.values()) for name in sets}
    lines = [
        [
            method,
            *(f"{found[name]['ami']:.3f} ({found[name]['clusters']})" for name in sets),
            f"{max(top[name] - found[name]['ami'] for name in sets):.3f}",
            f"{sum(found[name]['seconds'] for name in sets):.1f}",
        ]
        for method, found in table.items()
    ]
    return [["AMI (clusters)", *sets, "largest shortfall", "s"], *sorted(lines, key=lambda line: line[-2])]


def main() -> None:
    """Measures and prints."""
    options = harness.parser(__doc__)
    options.add_argument("--cub", type=Path, help="folder that holds CUB-200-2011")
    options.add_argument("--cars", type=Path, help="folder that holds CARS196")
    options.add_argument("--omniglot", type=Path, help="folder that holds Omniglot")
    options.add_argument("--weights", default=None, help="weights of MobileNetV2")
    options.add_argument("--split", choices=("test", "train"), default="test")
    options.add_argument("--methods", nargs="*", default=[], help="only these")
    options.add_argument("--sure", default=None, help="measure how sure this method is")
    options.add_argument("--features", type=Path, help="folder that keeps the features")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    sets = {}
    for name in ("cub", "cars", "omniglot", "glyphs"):
        root = getattr(given, name, None)
        if root is None and name != "glyphs":
            continue
        kept = given.features / f"{name}-{given.split}.npz" if given.features else None
        if kept is not None and kept.exists():
            with np.load(kept) as file:
                sets[name] = file["units"], file["labels"]
            continue
        sets[name] = vectors_of(name, root, given.split, given.weights, *((160, 32) if given.quick else ()))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, units=sets[name][0], labels=sets[name][1])
    rows = how_sure(sets, given.sure) if given.sure else compare(sets, given.methods)
    if not given.sure:
        heads, *lines = shortfalls(rows)
        print(harness.table(heads, lines))
    harness.write(given.out, {"what": __doc__, "machine": harness.machine(given.threads), "results": rows})


if __name__ == "__main__":
    main()
