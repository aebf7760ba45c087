"""Shared by the benchmarks: batches, timing several contenders in one process, the machine, JSON and tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.search import native
from limits import Beat, Limits, attempt

ENOUGH = 0.02  # minimum duration of one sample in seconds
SLOW, FAR_SLOWER = 1.0, 60  # a first call this slow (seconds, times the quickest) is the only sample
# Clustered embeddings resemble those of a half-trained network: a cosine of 0.75 within a class, Recall@1 of 0.9 at
# b = 128 and 0.7 at b = 1024, 0.6% of all triplets within a margin of 0.05. Without violating triplets, the incumbent
# would skip its backward pass.
DIRECTIONS, NOISE = 16, 0.7  # dimensions that the class centres span; norm of the noise around a centre of norm 1

Step = Callable[[], Any]  # one forward and backward pass


@dataclass(frozen=True)
class Batch:
    """Unit-norm float32 embeddings, k consecutive rows per class, as from a class-balanced sampler."""

    b: int
    k: int
    d: int = 512
    clustered: bool = True

    def make(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        """Return embeddings (b, d) that require a gradient, and labels (b,)."""
        generator = torch.Generator().manual_seed(self.b + self.k)
        labels = torch.arange(self.b) // self.k
        points, centres = functional.normalize(torch.randn(2, self.b, self.d, generator=generator), dim=2)
        if self.clustered:
            points, centres = (functional.normalize(x[:, :DIRECTIONS], dim=1) for x in (points, centres))
            points = functional.pad(centres[labels] + NOISE * points, (0, max(0, self.d - DIRECTIONS)))
        return functional.normalize(points, dim=1).to(device).requires_grad_(), labels.to(device)


class Contender(Protocol):
    """Runs a batch forward and backward; it is sent to the process that times it."""

    @property
    def name(self) -> str: ...

    def step(self, embeddings: Tensor, labels: Tensor) -> Step: ...


@dataclass(frozen=True)
class Race:
    """Seconds per call of every contender, one sample per round, or the reason why there are none."""

    times: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def race(contenders: Iterable[Contender], batch: Batch, repeats: int, threads: int, limits: Limits) -> Race:
    """Time the contenders on one batch in one process, in turn, round after round.

    A contender that takes too much time or memory is dropped with the reason, and the others start again without it.
    """
    left, failures = list(contenders), {}
    while left:
        ended = attempt(_rounds, left, batch, repeats, threads, limits=limits)
        if not ended.why_not:
            return Race(ended.result, failures)
        if ended.stage not in {contender.name for contender in left}:
            raise RuntimeError(f"the measurement itself failed: {ended.why_not}")
        failures[ended.stage] = ended.why_not
        left = [contender for contender in left if contender.name != ended.stage]
    return Race({}, failures)


def _rounds(
    beat: Beat, contenders: list[Contender], batch: Batch, repeats: int, threads: int
) -> dict[str, list[float]]:
    torch.set_num_threads(threads)
    embeddings, labels = batch.make()
    steps, first = {}, {}
    for contender in contenders:
        beat(contender.name)
        steps[contender.name] = contender.step(embeddings, labels)
        first[contender.name] = seconds_per_call(steps[contender.name], 1)
        if SLOW < first[contender.name] < 5 * SLOW:  # it may have loaded a library; a slower call is slow by itself
            first[contender.name] = seconds_per_call(steps[contender.name], 1)
    slow = {name for name, t in first.items() if t > max(SLOW, FAR_SLOWER * min(first.values()))}
    times = {name: [first[name]] if name in slow else [] for name in steps}
    calls = {}
    for name in steps.keys() - slow:
        beat(name)
        calls[name] = _enough_calls(steps[name])
    for turn in range(repeats):
        for name in sorted(calls, key=list(steps).index, reverse=turn % 2 == 1):
            beat(name)
            times[name].append(seconds_per_call(steps[name], calls[name]))
    return times


def _enough_calls(step: Step) -> int:
    """Return the number of calls per sample; this is also the second warm-up."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < 1.2 * ENOUGH:
        step()
        calls += 1
    return calls


def seconds_per_call(step: Step, calls: int) -> float:
    """Elapsed seconds; on one thread those of the processor, which other work on the machine does not count in."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(calls):
        step()
    return (clock() - start) / calls


@dataclass(frozen=True)
class Ratio:
    """Median, smallest and largest of the rounds' ratios."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def ratio(times: dict[str, list[float]], of: str, to: str) -> Ratio | None:
    """Return the ratios of two contenders' times, round by round, or None if one was not timed."""
    rounds = [a / b for a, b in zip(times.get(of, []), times.get(to, []), strict=False)]
    return Ratio(statistics.median(rounds), min(rounds), max(rounds)) if rounds else None


def milliseconds(times: Sequence[float]) -> str:
    return f"{1000 * statistics.median(times):.3g}"


def machine(threads: int) -> dict[str, Any]:
    """Return a description of the machine and the versions."""
    versions = {}
    for package in ("torch", "pytorch-metric-learning", "embedding-expansion"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "search": native.describe(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "load": os.getloadavg()[0],
        "started": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def write(out: Path | None, report: dict[str, Any]) -> None:
    """Write the report as JSON. Dataclasses become objects, and values that JSON lacks (infinity) become words."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(_plain(report), indent=1) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return "inf" if value == float("inf") else value


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    options = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    options.add_argument("--out", type=Path, help="also write the figures and the machine's description to this JSON")
    options.add_argument("--quick", action="store_true", help="tiny sizes, to check that the script runs")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--seconds", type=float, default=60.0, help="time limit of a single call")
    options.add_argument("--gigabytes", type=float, default=12.0, help="memory limit of a measurement")
    return options


def limits(given: argparse.Namespace) -> Limits:
    return Limits(given.seconds, given.gigabytes)
