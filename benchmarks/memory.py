"""Measure the memory of a loss, forward and backward, on the CPU: the peak of the resident set, in fresh processes.

    python benchmarks/memory.py --out memory.json

Growth is the peak during one pass minus the resident memory just before it, when the embeddings exist and a tiny batch
has loaded the libraries. Its unit is b^2 float32 numbers. The total is the peak of the process, including libraries.
"""

from __future__ import annotations

import math
import resource
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import harness
from contenders import Ours, choose, searches
from embedding_expansion.errors import EmbeddingExpansionError
from harness import Batch, table
from limits import Beat, attempt, reason

EXPANDED = "multi_similarity"
PLAIN = ("triplet", "margin", "lifted_structure", "nt_xent")  # losses for which others form a tensor of batch cubed
MOST, MOST_IN_BLOCKS = 6.0, 2.0  # bars: growth in b^2 floats; total in GB with row blocks
WAIT = 600.0  # seconds for a pass; generous, because memory is measured


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of a loss."""

    part: str
    loss: str
    n: float | None
    batch: Batch
    search: str = "torch"
    options: dict[str, Any] = field(default_factory=dict)


def passes(given: Namespace) -> Iterator[Pass]:
    """Return the cases: few and many points, plain losses, the curve over b, and large batches in row blocks."""
    b, d, forms = given.size, given.d, searches()
    for k in given.per_class:
        for n in given.n:
            yield from (Pass("expanded", EXPANDED, n, Batch(b, k, d), form) for form in forms)
        yield Pass("expanded", EXPANDED, math.inf, Batch(b, k, d))  # it is searched in torch alone
    plain, left_out = choose(given.losses)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    yield from (Pass("plain", row.name, None, Batch(b, 4, d)) for row in plain)
    yield from (Pass("curve", EXPANDED, 2, Batch(size, 4, d), forms[0]) for size in given.curve)
    blocks = {"chunk": given.chunk}
    yield Pass("in row blocks", EXPANDED, 2, Batch(given.large, 4, d), forms[0], blocks)
    yield from (Pass("in row blocks", row.name, None, Batch(given.large, 4, d), options=blocks) for row in plain)


def peak(beat: Beat, one: Pass, threads: int) -> dict[str, float]:
    """Run in a fresh process; return the resident bytes before the pass and at its peak."""
    torch.set_num_threads(threads)
    (row,) = choose([one.loss])[0]
    contender = Ours(row, one.n, one.search, one.options)
    beat("warm-up")
    contender.step(*Batch(4 * one.batch.k, one.batch.k, one.batch.d).make())()
    step = contender.step(*one.batch.make())
    before = forget_the_peak()
    beat("pass")
    step()
    return {"before": before, "peak": resident_peak()}


def forget_the_peak() -> float:
    """Return the resident bytes. Linux can reset the peak; elsewhere this is the peak so far."""
    status = Path("/proc/self/clear_refs")
    if not status.exists():
        return resident_peak()
    status.write_text("5", encoding="ascii")
    return _status("VmRSS")


def resident_peak() -> float:
    if sys.platform == "linux":  # ru_maxrss starts with that of the parent there
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def differences(given: Namespace) -> Iterator[list[str]]:
    """Return the difference of value and gradient in row blocks from those in one piece, relative to the largest."""
    rows = choose([*given.losses, EXPANDED])[0]
    embeddings, labels = Batch(given.same, 4, given.d).make()
    for row in rows:
        n, blocks = 2 if row.name == EXPANDED else None, {"chunk": given.same // 4}
        try:
            sides = [Ours(row, n, options=options).build()(embeddings, labels) for options in ({}, blocks)]
        except EmbeddingExpansionError as error:
            yield [row.name, reason(error), "-"]
            continue
        whole, pieces = (torch.autograd.grad(value, embeddings)[0] for value in sides)
        scale = whole.abs().max().clamp(min=1e-30)
        value = abs(float(sides[1].detach() / sides[0].detach()) - 1)
        yield [row.name, f"{value:.1e}", f"{float((whole - pieces).abs().max() / scale):.1e}"]


def shown(one: Pass, measured: dict[str, float]) -> list[str]:
    """Return growth and total, with the bar for them."""
    unit = 4 * one.batch.b**2
    growth, total = (measured["peak"] - measured["before"]) / unit, measured["peak"] / 1e9
    if one.part == "in row blocks":
        return [f"{growth:.2f}", f"{total:.2f}", f"{MOST_IN_BLOCKS:g} GB", "yes" if total <= MOST_IN_BLOCKS else "NO"]
    if one.part == "expanded":
        return [f"{growth:.2f}", f"{total:.2f}", f"{MOST:g} b^2", "yes" if growth <= MOST else "NO"]
    return [f"{growth:.2f}", f"{total:.2f}", "-", "-"]


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--size", type=int, default=4096)
    options.add_argument("--large", type=int, default=16384, help="rows of the batches that are computed in row blocks")
    options.add_argument("--chunk", type=int, default=1024, help="rows of a block")
    options.add_argument("--losses", nargs="+", default=list(PLAIN), help="plain ones")
    options.set_defaults(
        per_class=[2, 4, 32], n=[0, 2, 8], curve=[512, 1024, 2048, 4096, 8192], same=1024, d=512, seconds=WAIT
    )
    given = options.parse_args()
    if given.quick:
        given.size, given.large, given.chunk, given.d, given.same = 64, 64, 32, 16, 32
        given.per_class, given.n, given.curve, given.losses = [4], [2], [], []
    results: list[dict[str, Any]] = []
    torch.set_num_threads(given.threads)
    same = list(differences(given))
    report = {
        "what": "bytes resident before one forward + backward pass and at its peak, float32, clustered embeddings",
        "machine": harness.machine(given.threads),
        "row_blocks_against_one_piece": same,
        "results": results,
    }
    rows = []
    for one in passes(given):
        ended = attempt(peak, one, given.threads, limits=harness.limits(given), fresh=True)
        results.append({**asdict(one), "bytes": ended.result, "why_not": ended.why_not})
        harness.write(given.out, report)
        form = f"n = {one.n}, {one.search}" if one.n is not None else "plain"
        cells = [ended.why_not, "-", "-", "-"] if ended.why_not else shown(one, ended.result)
        rows.append([one.part, f"{one.loss}, {form}", one.batch.b, one.batch.k, *cells])
        print(*rows[-1], sep="; ", file=sys.stderr)
    print(table(["part", "loss", "b", "K", "growth, b^2 floats", "total, GB", "bar", "met"], rows))
    print(f"\nIn row blocks of {given.same // 4} against in one piece, b = {given.same}:\n")
    print(table(["loss", "value differs by", "gradient differs by"], same))


if __name__ == "__main__":
    main()
