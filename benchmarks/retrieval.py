"""Measure evaluation and k-means: time against the incumbent, faiss and the bare products, and memory, on the CPU.

    python benchmarks/retrieval.py --out retrieval.json

The data have the size of Stanford Online Products' test set, with classes of 2 to 12 images. The incumbent is
pytorch-metric-learning's AccuracyCalculator with faiss-cpu. It lacks Recall@K, so a subclass adds it, computed from the
neighbours that it has found. The bare products are the similarities of all pairs, one block of queries at a time; "in
tiles" also splits the gallery into blocks, which stay in the cache. Both compute all products, while ours computes half
of them in leave-one-out. "Of floats" is ours as on a processor that does not multiply bytes.

An iteration of k-means moves the centres and assigns the rows again, beginning with sampled rows. Ours is timed as the
first such iteration, because it stops when nothing changes. That of faiss is the difference between several iterations
and one, divided by their number. The contenders of a race run in one process, in turn.
"""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

import harness
from embedding_expansion.retrieval import native
from embedding_expansion.retrieval.centers import nearest_center
from embedding_expansion.retrieval.kmeans import move_centers
from embedding_expansion.retrieval.metrics import retrieval_metrics
from harness import Race, Ratio, Step, ratio, table
from limits import Beat, attempt
from memory import forget_the_peak, resident_peak

KS = (1, 10, 100, 1000)
FASTER, OF_PRODUCTS, GIGABYTES, FASTER_KMEANS = 3.0, 1.6, 0.6, 2.0  # the bars, see docs/measures.md
NOISE = 1.6  # times the norm of a class centre: gives a Recall@1 of about 0.1 at the full size


@dataclass(frozen=True)
class Products:
    """Unit rows around class centres, as from a network in training; the classes differ in size."""

    b: int
    classes: int
    d: int
    k: int = 0
    clustered: bool = True

    def make(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.b)
        # Two rows of every class; the remaining rows favour the first classes.
        extra = torch.rand(self.b - 2 * self.classes, generator=generator).square() * self.classes
        labels = torch.cat([torch.arange(self.classes).repeat(2), extra.long()])
        centres = functional.normalize(torch.randn(self.classes, 64, generator=generator), dim=1)
        noise = functional.normalize(torch.randn(self.b, 64, generator=generator), dim=1)
        rows = functional.pad(centres[labels] + NOISE * noise, (0, self.d - 64))
        rotation = torch.linalg.qr(torch.randn(self.d, self.d, generator=generator)).Q
        return functional.normalize(rows @ rotation, dim=1).to(device), labels.to(device)


@dataclass(frozen=True)
class Contender:
    """One contender, by name: evaluation, or k-means with the given number of iterations."""

    name: str
    iterations: int = 0

    def step(self, rows: Tensor, labels: Tensor) -> Step:
        side, k = self.name.split(",")[0], int(labels.max()) + 1
        if side == "ours" and self.iterations:
            return one_iteration(rows, k)
        if side == "faiss":
            return faiss_kmeans(rows, k, self.iterations)
        if self.name.endswith("nDCG"):
            return lambda: retrieval_metrics(rows, labels, KS, more=("mrr", "map", "ndcg"))
        if self.name.endswith("floats"):
            return of_floats(rows, labels)
        if side == "ours":
            return lambda: retrieval_metrics(rows, labels, KS)
        if side == "incumbent":
            return incumbent(rows, labels)
        return lambda: products(rows, 1024 if self.name.endswith("in tiles") else len(rows))


def products(rows: Tensor, width: int) -> None:
    similarities = rows.new_empty(min(1024, len(rows)), min(width, len(rows)))
    for block in torch.split(rows, 1024):
        for gallery in torch.split(rows, width):
            torch.mm(block, gallery.T, out=similarities[: len(block), : len(gallery)])


def of_floats(rows: Tensor, labels: Tensor) -> Step:
    """Behave as on a processor that does not multiply bytes."""

    def step() -> None:
        with mock.patch.object(native, "multiplies_bytes", return_value=False):
            retrieval_metrics(rows, labels, KS)

    return step


def incumbent(rows: Tensor, labels: Tensor) -> Step:
    import faiss
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import FaissKNN

    faiss.omp_set_num_threads(torch.get_num_threads())

    def recall(k: int) -> Callable[..., float]:
        def calculate(self: Any, knn_labels: Tensor, query_labels: Tensor, **_: Any) -> float:
            return float((knn_labels[:, :k] == query_labels[:, None]).any(1).double().mean())

        return calculate

    with_recall = type("WithRecall", (AccuracyCalculator,), {f"calculate_recall_at_{k}": recall(k) for k in KS})
    names = [f"recall_at_{k}" for k in KS]
    calculator = with_recall(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r", *names),
        k=min(max(KS), len(rows) - 1),
        device=torch.device("cpu"),
        knn_func=FaissKNN(index_init_fn=faiss.IndexFlatIP, gpus=None),
    )
    return lambda: calculator.get_accuracy(rows, labels)


def one_iteration(rows: Tensor, k: int) -> Step:
    sampled = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:k]]
    assigned = nearest_center(rows, sampled)
    return lambda: nearest_center(rows, move_centers(rows, *assigned, k))


def faiss_kmeans(rows: Tensor, k: int, iterations: int) -> Step:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    array = rows.numpy()

    def step() -> None:
        faiss.Kmeans(array.shape[1], k, niter=iterations, seed=0, min_points_per_centroid=1).train(array)

    return step


def growth(beat: Beat, contender: Contender, one: Products, small: Products, threads: int) -> float:
    """Run in a fresh process; return the peak bytes of one call minus the resident bytes before it."""
    torch.set_num_threads(threads)
    beat("warm-up")
    contender.step(*small.make())()
    step = contender.step(*one.make())
    before = forget_the_peak()
    beat("call")
    step()
    return resident_peak() - before


def per_iteration(race: Race, most: int) -> dict[str, list[float]]:
    """Return the seconds of one iteration of either contender, round by round."""
    few, many = (race.times.get(f"faiss, {count} iterations", []) for count in (1, most))
    theirs = [(b - a) / (most - 1) for a, b in zip(few, many, strict=False)]
    return {"ours": race.times.get("ours, 1 iteration", []), "faiss": theirs}


def line(what: str, measured: Ratio | None, bar: str, met: Callable[[float], bool], why: str) -> list[str]:
    if measured is None:
        return [what, why, bar, "-"]
    return [what, str(measured), bar, "yes" if met(measured.median) else "NO"]


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--share", type=float, default=1.0, help="share of the rows and of the classes")
    options.add_argument("--repeats", type=int, default=5, help="rounds")
    options.add_argument("--iterations", type=int, default=6, help="of k-means, the longer run")
    options.set_defaults(d=512, size=60502, classes=11316, seconds=900.0, gigabytes=16.0)
    given = options.parse_args()
    if given.quick:
        given.size, given.classes, given.d, given.repeats = 1200, 200, 64, 1
    one = Products(int(given.size * given.share), int(given.classes * given.share), given.d)
    report = run(one, given)
    harness.write(given.out, report)


def run(one: Products, given: Namespace) -> dict[str, Any]:
    limits, most = harness.limits(given), given.iterations
    names = ("ours", "ours, of floats", "ours, with MRR, MAP and nDCG", "incumbent", "products", "products, in tiles")
    sides = [Contender(name) for name in names]
    means = [Contender("ours, 1 iteration", 1), *(Contender(f"faiss, {n} iterations", n) for n in (1, most))]
    small = Products(1200, 200, given.d)
    peaks: dict[str, Any] = dict.fromkeys(names, "-")
    for side in sides[:1] if given.quick else sides:
        ended = attempt(growth, side, one, small, given.threads, limits=limits, fresh=True)
        peaks[side.name] = ended.result if not ended.why_not else ended.why_not
        print(side.name, peaks[side.name], sep="; ", file=sys.stderr)
    evaluation = harness.race(sides, one, given.repeats, given.threads, limits)
    clustering = harness.race(means, one, given.repeats, given.threads, limits)
    per = per_iteration(clustering, most)
    machine = harness.machine(given.threads)
    machine["versions"] |= {"faiss-cpu": metadata.version("faiss-cpu")}
    show(one, evaluation, per, peaks, clustering.failures)
    return {
        "what": __doc__,
        "machine": machine,
        "set": asdict(one),
        "evaluation": evaluation,
        "growth": peaks,
        "kmeans": clustering,
        "seconds_per_iteration": per,
    }


def show(
    one: Products, race: Race, per: dict[str, list[float]], peaks: dict[str, Any], failures: dict[str, str]
) -> None:
    print(f"{one.b} x {one.d}, {one.classes} classes\n")
    rows = []
    for name in peaks:
        times, peak = race.times.get(name, []), peaks[name]
        shown = race.failures.get(name, "-") if not times else f"{statistics.median(times):.3g}"
        spread = f"{min(times):.3g} to {max(times):.3g}" if times else "-"
        rows.append([name, shown, spread, f"{peak / 1e9:.2f}" if isinstance(peak, float) else peak])
    for side, times in per.items():
        if times:
            spread = f"{min(times):.3g} to {max(times):.3g}"
            rows.append([f"{side}, an iteration of k-means", f"{statistics.median(times):.3g}", spread, "-"])
    print(table(["", "seconds, median", "range", "growth, GB"], rows))
    why = "; ".join([*race.failures.values(), *failures.values()])
    faster = ratio(race.times, "incumbent", "ours")
    bars = [
        line("incumbent / ours", faster, f"at least {FASTER:g}", lambda x: x >= FASTER, why),
        line(
            "incumbent / ours, of floats", ratio(race.times, "incumbent", "ours, of floats"), "-", lambda x: True, why
        ),
        line(
            "ours / bare products",
            ratio(race.times, "ours", "products"),
            f"at most {OF_PRODUCTS:g}",
            lambda x: x <= OF_PRODUCTS,
            why,
        ),
        line(
            "faiss / ours, k-means",
            ratio(per, "faiss", "ours"),
            f"at least {FASTER_KMEANS:g}",
            lambda x: x >= FASTER_KMEANS,
            why,
        ),
    ]
    peak = peaks["ours"]
    grown = Ratio(peak / 1e9, peak / 1e9, peak / 1e9) if isinstance(peak, float) else None
    bars.append(line("growth, ours, GB", grown, f"at most {GIGABYTES:g}", lambda x: x <= GIGABYTES, str(peak)))
    print("\nThe bars are for the full size.\n\n" + table(["", "measured", "bar", "met"], bars))


if __name__ == "__main__":
    main()
