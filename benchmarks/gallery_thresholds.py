"""False alarms of "known or unknown" for galleries of 8 to 100 classes, with queries of classes that they do not have.

Each draw takes C classes of a data set at random. Half of their images are the gallery, the other half are queries of
known classes, and all images of the other classes, at least 500, are queries of unknown classes. The thresholds are
calibrated on the gallery alone:

- `own`: on the gallery, with each class held out of it in turn (`gallery_threshold`);
- `grown`: on half of its classes, and extrapolated to all of it (`Threshold.at`);
- `fixed`: one threshold for all sizes, calibrated on a gallery of 8 other classes, as a threshold of a run would be
  used without its size;
- `best`: chosen on the queries themselves, which nobody has: what a perfect calibration would reach.

Printed are the mean of the false alarm rate over the wanted one, its 90th percentile and the share of draws above 1.5;
then the shares of queries of known classes that count as known, and that are also identified correctly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import harness
from embedding_expansion import Embedder, gallery_threshold, open_dataset
from embedding_expansion.data.images import ImageSet
from embedding_expansion.errors import InvalidInput

SIZES = (8, 12, 16, 25, 50, 75, 100)
LEAST_UNKNOWN = 500
NEVER = 1.1  # above any cosine: nothing is known


@dataclass(frozen=True)
class Draw:
    """Rows of the gallery, of queries of known classes and of queries of unknown classes."""

    gallery: npt.NDArray[np.int64]
    known: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.int64]


def embedded(
    folder: Path, name: str, model: str, weights: str | None, batch: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Embeddings and classes of both splits of a data set, or of the test split if `model` is a run."""
    dataset = open_dataset(name, root=folder, part=True)
    trained = Path(model).is_dir()
    embedder = Embedder.load(model) if trained else Embedder.from_backbone(model, weights=weights, batch_size=batch)
    parts: list[ImageSet] = [dataset.test] if trained else [dataset.train, dataset.test]
    rows = [embedder.embed([part.path(at) for at in range(len(part))]) for part in parts]
    labels = [part.labels + 10_000 * number for number, part in enumerate(parts)]
    return np.concatenate(rows), np.concatenate(labels)


def draw(labels: npt.NDArray[np.int64], count: int, random: np.random.Generator) -> Draw:
    """Draws `count` classes, and a half of the images of each."""
    chosen = random.permutation(np.unique(labels))[:count]
    halves: tuple[list[int], list[int]] = ([], [])
    for one in chosen:
        rows = random.permutation(np.flatnonzero(labels == one)).tolist()
        halves[0].extend(rows[: (len(rows) + 1) // 2])
        halves[1].extend(rows[(len(rows) + 1) // 2 :])
    return Draw(np.array(halves[0]), np.array(halves[1]), np.flatnonzero(~np.isin(labels, chosen)))


def threshold(rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], rate: float, size: int) -> float:
    """The threshold that these rows give for a gallery of `size` rows; `NEVER` if they give none."""
    try:
        found = gallery_threshold(rows, labels, false_alarm_rate=rate).at(size)
    except InvalidInput:
        return NEVER
    return NEVER if found is None else found


def compare(
    rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], count: int, draws: int, rate: float
) -> dict[str, npt.NDArray[np.float64]]:
    """For each way, a row per draw: false alarm rate, detection, identification."""
    random, found = np.random.default_rng(count), dict[str, list[tuple[float, ...]]]()
    for _ in range(draws):
        one = draw(labels, count, random)
        gallery, classes = rows[one.gallery], labels[one.gallery]
        unknown = (rows[one.unknown] @ gallery.T).max(1)
        table = rows[one.known] @ gallery.T
        known, right = table.max(1), classes[table.argmax(1)] == labels[one.known]
        others = np.unique(labels[one.unknown])
        elsewhere = np.isin(labels, random.permutation(others)[:8])
        half = np.isin(classes, random.permutation(np.unique(classes))[: (count + 1) // 2])
        size = len(gallery)
        ways = {
            "own": threshold(gallery, classes, rate, size),
            "grown": threshold(gallery[half], classes[half], rate, min(size, 2 * int(half.sum()))),
            "fixed": threshold(rows[elsewhere], labels[elsewhere], rate, 0),
            "best": float(np.sort(unknown)[::-1][int(rate * len(unknown))]) + 1e-9,
        }
        for way, value in ways.items():
            shares = ((unknown >= value).mean(), (known >= value).mean(), ((known >= value) & right).mean())
            found.setdefault(way, []).append(tuple(float(share) for share in shares))
    return {way: np.array(values) for way, values in found.items()}


def main() -> None:
    """Measures and prints."""
    options = harness.parser(__doc__)
    options.add_argument("--data", default="cars", help="cars or cub")
    options.add_argument("--root", type=Path, help="folder of the data set")
    options.add_argument("--model", default="mobilenet_v2", help="a backbone, or a run (its test split)")
    options.add_argument("--weights", default=None, help="weights of the backbone")
    options.add_argument("--draws", type=int, default=100)
    options.add_argument("--rate", type=float, default=0.05, help="the false alarm rate that is asked for")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    if given.quick:
        labels = np.repeat(np.arange(60), 20)
        random = np.random.default_rng(0)
        rows = random.normal(size=(60, 16)).repeat(20, 0) + random.normal(size=(1200, 16))
        rows, given.draws = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), 3
    else:
        rows, labels = embedded(given.root, given.data, given.model, given.weights, 64)
    counts = np.unique(labels, return_counts=True)[1]
    lines, results = list[list[Any]](), dict[int, Any]()
    for count in SIZES:
        if len(counts) <= count or np.sort(counts)[: len(counts) - count].sum() < LEAST_UNKNOWN:
            continue
        found = compare(rows, labels, count, given.draws, given.rate)
        results[count] = {way: values.tolist() for way, values in found.items()}
        for way, values in found.items():
            ratio = values[:, 0] / given.rate
            cells = [f"{number:.2f}" for number in (ratio.mean(), np.quantile(ratio, 0.9), (ratio > 1.5).mean())]
            lines.append([count, way, *cells, *(f"{100 * share:.1f}" for share in values[:, 1:].mean(0))])
    harness.write(given.out, {"what": __doc__, "machine": harness.machine(given.threads), "results": results})
    heads = ["classes", "threshold", "false alarms / wanted", "90%", "above 1.5", "known (%)", "identified (%)"]
    print(harness.table(heads, lines))


if __name__ == "__main__":
    main()
