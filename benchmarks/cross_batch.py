"""Measure what a cross-batch memory costs: time and memory of one forward and backward pass, in fresh processes.

    python benchmarks/cross_batch.py --out cross_batch.json

The queue is filled with random embeddings of the given number of classes. Times are processor times on one thread, so
other work on the machine affects them little. Growth is the peak memory during the timed passes minus the resident
memory before them, which includes the queue.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional

import harness
from embedding_expansion import EmbeddingExpansion, MultiSimilarityLoss
from embedding_expansion.core.memory import CrossBatchMemory
from harness import milliseconds, table
from limits import Beat, attempt
from memory import forget_the_peak, resident_peak


@dataclass(frozen=True)
class Case:
    """Multi-similarity with a queue, or without (size 0)."""

    size: int
    classes: int
    n: int | None
    max_segments: int | None = None
    chunk: int | None = None


def cases(given: Namespace) -> Iterator[Case]:
    """Return the cases: no queue, few and many embeddings per class, and many with limited segments."""
    many, some, few = given.classes
    for n in (None, 2):
        yield Case(0, many, n)
        for classes in (many, some, few):
            yield Case(given.size, classes, n)
    yield Case(given.size, few, 2, max_segments=24)
    yield Case(given.size, few, 2, max_segments=6)
    yield Case(given.size, few, 2, max_segments=6, chunk=32)


def measured(beat: Beat, one: Case, given: Namespace) -> dict[str, Any]:
    """Run in a fresh process; return the seconds of each pass and the growth in bytes."""
    torch.set_num_threads(given.threads)
    generator = torch.Generator().manual_seed(0)
    loss: Any = MultiSimilarityLoss(chunk=one.chunk)
    if one.n is not None:
        loss = EmbeddingExpansion(loss, n=one.n, max_segments=one.max_segments)
    if one.size:
        loss = CrossBatchMemory(loss, given.d, size=one.size)
        loss.rows.copy_(functional.normalize(torch.randn(one.size, given.d, generator=generator), dim=1))
        loss.labels.copy_(torch.arange(one.size) // 4 % one.classes)
        loss.entered.fill_(one.size)

    def step() -> None:
        labels = torch.randperm(one.classes, generator=generator)[: given.batch // 4].repeat_interleave(4)
        loss(torch.randn(len(labels), given.d, generator=generator).requires_grad_(), labels).backward()

    before = 0.0
    times = []
    for turn in range(given.repeats + 1):
        beat("pass")
        if turn == 1:  # the first one loads the libraries
            before = forget_the_peak()
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return {"seconds": times[1:], "growth": resident_peak() - before}


def main() -> None:
    options = harness.parser(__doc__)
    options.set_defaults(size=8192, d=128, batch=128, classes=(11318, 1000, 100), repeats=5, threads=1)
    given = options.parse_args()
    if given.quick:
        given.size, given.d, given.batch, given.classes, given.repeats = 64, 8, 16, (16, 12, 8), 1
    results, rows = [], []
    for one in list(cases(given))[: 2 if given.quick else None]:
        ended = attempt(measured, one, given, limits=harness.limits(given), fresh=True)
        results.append({**asdict(one), "measured": ended.result, "why_not": ended.why_not})
        form = "plain" if one.n is None else f"n = {one.n}"
        form += "" if one.max_segments is None else f", max_segments {one.max_segments}"
        form += "" if one.chunk is None else f", chunk {one.chunk}"
        of_class = f"{one.size / one.classes:.3g}" if one.size else "-"
        cells = ["-", ended.why_not, "-"]
        if not ended.why_not:
            times = ended.result["seconds"]
            spread = f"{1000 * min(times):.3g} to {1000 * max(times):.3g}"
            cells = [milliseconds(times), spread, f"{ended.result['growth'] / 1e6:.0f}"]
        rows.append([form, one.size or "none", of_class, *cells])
    report = {"what": __doc__, "machine": harness.machine(given.threads), "results": results}
    harness.write(given.out, report)
    print(table(["loss", "queue", "of a class", "ms, median", "range", "growth, MB"], rows))


if __name__ == "__main__":
    main()
