"""Time the search in Gram space against building the synthetic points, forward and backward on the CPU.

    python benchmarks/explicit.py --out explicit.json

The explicit form synthesises the points, compares all with all in one product, and takes the largest entry of every two
classes. The script first checks that both forms give the same numbers. The value is the sum of the table of hardest
similarities.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import harness
from contenders import searches, step
from embedding_expansion.core.expansion import expand
from harness import Batch, Contender, Step, milliseconds, race, ratio, table

LEAST = {2: 3.0, 8: 10.0}  # times as fast as the explicit construction, by n


@dataclass(frozen=True)
class GramSpace:
    """The form of this package, in Gram space."""

    k: int
    n: int
    search: str = "torch"

    @property
    def name(self) -> str:
        return f"Gram space, {self.search}"

    def value(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        pairs = expand(embeddings, labels, self.n, metric="inner")
        return pairs.negative[:: self.k].masked_select(pairs.negative_mask[:: self.k]).sum()  # one row for every class

    def step(self, embeddings: Tensor, labels: Tensor) -> Step:
        return step(self.value, embeddings, labels, self.search)


@dataclass(frozen=True)
class Explicit:
    """The paper's construction, literally. The rows are already sorted by class, so no grouping is timed."""

    k: int
    n: int
    name: str = "explicit"

    def value(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        c, d = len(embeddings) // self.k, embeddings.shape[1]
        members = embeddings.view(c, self.k, 1, d)
        i, j = torch.triu_indices(self.k, self.k, offset=1)
        share = (torch.arange(1, self.n + 1) / (self.n + 1))[:, None]
        synthetic = functional.normalize(share * members[:, i] + (1 - share) * members[:, j], dim=3)
        points = torch.cat([members.flatten(1, 2), synthetic.flatten(1, 2)], dim=1)
        q = points.shape[1]
        points = points.flatten(0, 1)
        hardest = (points @ points.T).view(c, q, c, q).amax(dim=(1, 3))
        return hardest.masked_select(~torch.eye(c, dtype=torch.bool)).sum()

    def step(self, embeddings: Tensor, labels: Tensor) -> Step:
        return step(self.value, embeddings, labels)


def check_equal(k: int, n: int) -> None:
    """Assert that both forms compute the same value and gradient."""
    embeddings, labels = Batch(64, k, 32).make()
    embeddings = embeddings.detach().double().requires_grad_()
    sides = [contender.value(embeddings, labels) for contender in (GramSpace(k, n), Explicit(k, n))]
    gradients = [torch.autograd.grad(value, embeddings)[0] for value in sides]
    torch.testing.assert_close(*sides)
    torch.testing.assert_close(*gradients)


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--size", type=int, default=1024)
    options.add_argument("--per-class", type=int, default=2)
    given = options.parse_args()
    k, b, d = given.per_class, *((32, 16) if given.quick else (given.size, 512))
    results: list[dict[str, Any]] = []
    report = {
        "what": "forward + backward, float32, seconds per call in every round",
        "machine": harness.machine(given.threads),
        "results": results,
    }
    rows = []
    for n, least in LEAST.items():
        check_equal(k, n)
        for clustered in (True, False):
            contenders: list[Contender] = [Explicit(k, n), *(GramSpace(k, n, search) for search in searches())]
            batch = Batch(b, k, d, clustered)
            outcome = race(
                contenders, batch, repeats=given.repeats, threads=given.threads, limits=harness.limits(given)
            )
            results.append({"n": n, **vars(batch), "times": outcome.times, "failures": outcome.failures})
            kind = "clustered" if clustered else "unclustered"
            for name, why in outcome.failures.items():
                print(f"{name}, n = {n}, {kind}: {why}", file=sys.stderr)
            for name in outcome.times:
                faster = ratio(outcome.times, "explicit", name)
                rows.append([n, kind, name, milliseconds(outcome.times[name]), faster, f"{least:g}"])
    harness.write(given.out, report)
    print(f"b = {b}, {k} images of each class, d = {d}\n")
    print(table(["n", "embeddings", "form", "ms", "times as fast as explicit", "bar"], rows))


if __name__ == "__main__":
    main()
