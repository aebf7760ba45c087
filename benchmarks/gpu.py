"""Time the losses on a GPU, forward and backward, beside the Gram product and pytorch-metric-learning, with memory.

    python benchmarks/gpu.py --out gpu.json           # 8 minutes on one card; run it again to go on where it stopped
    python benchmarks/gpu.py --out dry.json --device cpu --quick     # tiny sizes on the CPU, to check that it runs

Each case is written to the JSON file as soon as it is measured, and a case in the file is not measured again. The bars
are checked for all cases of the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import harness
from contenders import GramProduct, Incumbent, Ours, Row, choose
from embedding_expansion.core.search import triton
from harness import Batch, Contender, Step, table

LOSSES = ("multi_similarity", "triplet", "hphn_triplet", "sup_con", "contrastive")
SIZES, CHUNKED, CHUNK = (128, 1024, 4096, 16384), 16384, 2048  # from CHUNKED rows on, in blocks of CHUNK anchors
PER_CLASS, POINTS = (2, 4, 8, 32), (0, 2, 8, math.inf)
MINUTES = 8.0
INCUMBENT_ROWS = 4096  # more it cannot hold: some of its losses list pairs
LISTS_TRIPLETS = ("triplet",), 1024  # losses of the incumbent that list all triplets, and the rows that these fit


class Case(NamedTuple):
    """One batch and one loss."""

    loss: str
    b: int
    k: int

    @property
    def key(self) -> str:
        return f"{self.loss}, b = {self.b}, K = {self.k}"


def cases(given: Any) -> Iterator[Case]:
    """Return all cases, those with bars first."""
    found = [Case(loss, b, k) for b in given.sizes for k in given.per_class for loss in given.losses if b > k]
    return iter(sorted(found, key=lambda case: (case.b > INCUMBENT_ROWS, case.k > 8, case.loss != given.losses[0])))


def contenders(case: Case, row: Row) -> list[Contender]:
    """Return what is timed for a case: the products, the incumbent, our loss plain, expanded and balanced."""
    more = {"chunk": CHUNK} if case.b >= CHUNKED else {}
    row = dataclasses.replace(row, options=row.options | more)
    found: list[Contender] = [GramProduct(), Ours(row, None)]
    found += [Ours(row, n, "gpu", {"balance": False}) for n in POINTS] + [Ours(row, 2, "gpu", {"balance": True})]
    names, most = LISTS_TRIPLETS
    if row.peer is not None and case.b <= (most if case.loss in names else INCUMBENT_ROWS):
        found.append(Incumbent(row))
    return found


class Clock:
    """Measures milliseconds and peak memory on a device."""

    def __init__(self, device: str) -> None:
        self.device, self.cuda = device, device.startswith("cuda")

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, step: Step, calls: int) -> float:
        """Return the seconds per call, of all calls together: the host may run ahead of the device."""
        self.wait()
        start = time.perf_counter()
        for _ in range(calls):
            step()
        self.wait()
        return (time.perf_counter() - start) / calls

    def peak(self, step: Step) -> int | None:
        """Return the bytes that a call needs beyond what is there before it; None on a CPU."""
        if not self.cuda:
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        step()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.cuda else self.device


def measured(case: Case, row: Row, clock: Clock, repeats: int) -> dict[str, Any]:
    """Return the milliseconds, the first call's seconds and the peak bytes of every contender, or what failed."""
    embeddings, labels = Batch(case.b, case.k).make(clock.device)
    labels = labels.cpu()  # as embex train passes them: then no step waits for the device
    times: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    peak: dict[str, int | None] = {}
    failures: dict[str, str] = {}
    steps: dict[str, Step] = {}
    for contender in contenders(case, row):
        step = contender.step(embeddings, labels.to(clock.device) if contender.name == "incumbent" else labels)
        try:
            first[contender.name] = clock.seconds(step, 1)
            clock.seconds(step, 2)
            peak[contender.name] = clock.peak(step)
        except torch.OutOfMemoryError:
            failures[contender.name] = "out of memory"
            torch.cuda.empty_cache()
            continue
        steps[contender.name], times[contender.name] = step, []
    calls = {name: max(1, min(20, int(0.05 / clock.seconds(step, 1)))) for name, step in steps.items()}
    for turn in range(repeats):
        for name in sorted(steps, key=list(steps).index, reverse=turn % 2 == 1):
            times[name].append(1000 * clock.seconds(steps[name], calls[name]))
    return {"times": times, "first_call_seconds": first, "peak_bytes": peak, "failures": failures}


class Bar(NamedTuple):
    """A limit for one contender, in multiples of another; `batches` and `images` say where it applies."""

    of: str
    to: str
    most: float
    batches: tuple[int, ...] = ()  # () stands for all
    images: tuple[int, ...] = PER_CLASS


N2, N8, N_INFINITY = (f"gpu n={n} balance=False" for n in (2, 8, math.inf))
BALANCED = "gpu n=2 balance=True"
BARS = (
    Bar(N2, "plain", 1.3, images=(2, 4)),
    Bar(N2, "plain", 2.0, images=(8,)),
    Bar(N2, "gram", 2.0, batches=(4096,), images=(2, 4, 8)),
    Bar(BALANCED, "plain", 2.5, images=(2, 4)),
    Bar(N2, "incumbent", 1.0),
    Bar(N8, N2, 1.5, images=(2, 4)),
    Bar(N_INFINITY, N2, 1.5, images=(2, 4)),
)
MOST_FLOATS = 6  # memory of any form, in units of b^2 floats


def verdicts(results: dict[str, Any]) -> list[list[object]]:
    """Return a line for every bar and case: what, the bar, what was measured, and whether it is met."""
    lines: list[list[object]] = []
    for key, found in results.items():
        b, k = found["b"], found["k"]
        for bar in BARS:
            ratio = harness.ratio(found["times"], bar.of, bar.to)
            if b in (bar.batches or (b,)) and k in bar.images and ratio is not None:
                met = "yes" if ratio.median <= bar.most else "NO"
                lines.append([key, f"{bar.of} / {bar.to}", f"at most {bar.most:g}", str(ratio), met])
        for name, peak in found["peak_bytes"].items():
            if peak is not None and name.startswith("gpu"):
                floats = peak / 4 / b**2
                met = "yes" if floats <= MOST_FLOATS else "NO"
                lines.append([key, f"memory of {name}", f"at most {MOST_FLOATS} b^2 floats", f"{floats:.2f}", met])
    return sorted(lines, key=lambda line: line[-1] == "yes")


def medians(results: dict[str, Any]) -> list[list[object]]:
    """Return the table of all cases: milliseconds and their ratios."""
    lines: list[list[object]] = []
    for key, found in results.items():
        middle = {name: statistics.median(times) for name, times in found["times"].items()}
        for name, value in middle.items():
            ratios = [f"{value / middle[to]:.2f}" if to in middle else "-" for to in ("gram", "plain", "incumbent")]
            peak = found["peak_bytes"][name]
            floats = "-" if peak is None else f"{peak / 4 / found['b'] ** 2:.2f}"
            spread = f"{min(found['times'][name]):.3g} to {max(found['times'][name]):.3g}"
            lines.append([key, name, f"{value:.3g}", spread, *ratios, floats])
        lines += [[key, name, why, *["-"] * 5] for name, why in found["failures"].items()]
    return lines


def report_in(out: Path | None, device: str, threads: int) -> dict[str, Any]:
    """Return the report to extend: that of the file if it is of the same device."""
    if out is not None and out.exists():
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        if found["device"] != device:
            raise SystemExit(f"{out} holds figures of {found['device']}, but this is {device}; pass another --out")
        return found
    return {"device": device, "machine": harness.machine(threads), "results": {}}


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    options.add_argument("--per-class", nargs="+", type=int, default=list(PER_CLASS))
    options.add_argument("--losses", nargs="+", default=list(LOSSES))
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--minutes", type=float, default=MINUTES, help="no case is started later than this")
    given = options.parse_args()
    if given.quick:
        given.sizes, given.per_class, given.losses, given.repeats = [16], [2, 4], ["multi_similarity", "triplet"], 2
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; to check that the script runs, pass --device cpu --quick")
    torch.set_num_threads(given.threads)
    rows, started, clock = {row.name: row for row in choose(given.losses)[0]}, time.monotonic(), Clock(given.device)
    report, left = report_in(given.out, clock.name, given.threads), 0
    report["search"] = "Triton" if triton.available(torch.device(given.device)) else "torch or C"
    for case in cases(given):
        if case.key in report["results"]:
            continue
        if time.monotonic() - started > 60 * given.minutes:
            left += 1
            continue
        found = measured(case, rows[case.loss], clock, given.repeats)
        report["results"][case.key] = {"loss": case.loss, "b": case.b, "k": case.k, **found}
        harness.write(given.out, report)
    print(f"{clock.name}, search in {report['search']}, d = 512\n")
    names = ["case", "what", "ms", "range", "/ Gram", "/ plain", "/ incumbent", "b^2 floats"]
    print(table(names, medians(report["results"])), "\n")
    print(table(["case", "what", "bar", "measured", "met"], verdicts(report["results"])))
    if left:
        print(f"\n{left} cases are left; run the same command again to measure them")


if __name__ == "__main__":
    main()
