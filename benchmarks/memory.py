"""Measure the memory of a loss, forward and backward, on the CPU: the peak of the resident set, in fresh processes.

    python benchmarks/memory.py --out memory.json

Growth is the peak during one pass above what was resident just before it, when the embeddings were there and a tiny
batch had loaded the libraries; its unit is b^2 float32 numbers. The total is the peak of everything, libraries too.
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
from harness import Batch, table
from limits import Beat, attempt

EXPANDED = "multi_similarity"
PLAIN = ("triplet", "margin", "lifted_structure", "nt_xent")  # where others form batch cubed
MOST, MOST_IN_BLOCKS = 6.0, 2.0  # growth in b^2 floats; total in GB with row blocks
WAIT = 600.0  # seconds for a pass: what is measured here is memory


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
    """Expanded with few and many points; plain; the curve over b; and very large batches in row blocks."""
    b, d, forms = given.size, given.d, searches()
    for k in given.per_class:
        for n in given.n:
            yield from (Pass("expanded", EXPANDED, n, Batch(b, k, d), form) for form in forms)
    plain = choose(given.losses)[0]
    yield from (Pass("plain", row.name, None, Batch(b, 4, d)) for row in plain)
    yield from (Pass("curve", EXPANDED, 2, Batch(size, 4, d), forms[0]) for size in given.curve)
    blocks = {"chunk": given.chunk}
    yield Pass("in row blocks", EXPANDED, 2, Batch(given.large, 4, d), forms[0], blocks)
    yield from (Pass("in row blocks", row.name, None, Batch(given.large, 4, d), options=blocks) for row in plain)


def peak(beat: Beat, one: Pass, threads: int) -> dict[str, float]:
    """The work of a fresh process: bytes resident before the pass, and at its peak."""
    torch.set_num_threads(threads)
    (row,) = choose([one.loss])[0]
    contender = Ours(row, one.n, one.search, one.options)
    beat("warm-up")
    contender.step(*Batch(4 * one.batch.k, one.batch.k, one.batch.d).make())()
    step = contender.step(*one.batch.make())
    before = _forget_the_peak()
    beat("pass")
    step()
    return {"before": before, "peak": _peak()}


def _forget_the_peak() -> float:
    """Bytes resident now. Linux can start the peak afresh; elsewhere it is the peak so far."""
    status = Path("/proc/self/clear_refs")
    if not status.exists():
        return _peak()
    status.write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak() -> float:
    if sys.platform == "linux":  # ru_maxrss there begins with the parent's
        return _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def blocks_differ(given: Namespace) -> dict[str, str]:
    """By how much the value and the gradient in row blocks differ from those in one piece, relative to the largest."""
    rows = [(row, None) for row in choose(given.losses)[0]] + [(row, 2) for row in choose([EXPANDED])[0]]
    batch = Batch(4 * given.check_chunk, 4, given.d)
    embeddings, labels = batch.make()
    found = {}
    for row, n in rows:
        try:
            sides = [Ours(row, n, options=some).build()(embeddings, labels) for some in ({}, given.check_blocks)]
        except Exception as error:
            found[row.name] = str(error)
            continue
        one, blocks = (torch.autograd.grad(value, embeddings)[0] for value in sides)
        value = abs(float(sides[0] - sides[1])) / max(abs(float(sides[0])), 1e-30)
        gradient = float((one - blocks).abs().max() / one.abs().max().clamp(min=1e-30))
        found[row.name] = f"value {value:.1e}, gradient {gradient:.1e}"
    return found


def shown(one: Pass, measured: dict[str, float]) -> list[str]:
    """Growth and total, with the bar it is held to."""
    unit = 4 * one.batch.b**2
    growth, total = (measured["peak"] - measured["before"]) / unit, measured["peak"] / 1e9
    if one.part == "in row blocks":
        return [f"{growth:.2f}", f"{total:.2f}", f"{MOST_IN_BLOCKS:g} GB", "yes" if total <= MOST_IN_BLOCKS else "NO"]
    if one.part == "expanded":
        return [f"{growth:.2f}", f"{total:.2f}", f"{MOST:g} b^2", "yes" if growth <= MOST else "NO"]
    return [f"{growth:.2f}", f"{total:.2f}", "-", "-"]
