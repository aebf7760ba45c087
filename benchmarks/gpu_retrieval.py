"""Measure time and memory of evaluation and k-means on a GPU, beside the bare products, in milliseconds.

    python benchmarks/gpu_retrieval.py --out gpu_retrieval.json

The data are those of retrieval.py and have the size of Stanford Online Products' test set. Memory is torch's peak
allocation during a call minus the allocation before it.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

import harness
from gpu import Clock
from harness import table
from retrieval import Contender, Products


def growth(step: harness.Step, device: str) -> float:
    """Return the peak gigabytes of a call above those before it, or NaN if the device does not count them."""
    if not device.startswith("cuda"):
        return float("nan")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e9


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--repeats", type=int, default=5)
    options.set_defaults(d=512, size=60502, classes=11316)
    given = options.parse_args()
    if given.quick:
        given.size, given.classes, given.d, given.repeats = 1200, 200, 64, 1
    one = Products(given.size, given.classes, given.d)
    embeddings, labels = one.make(given.device)
    names = ("ours", "ours, with MRR, MAP and nDCG", "products")
    sides = [*map(Contender, names), Contender("ours, 1 iteration", 1)]
    steps = {side.name: side.step(embeddings, labels) for side in sides}
    clock, grown = Clock(given.device), dict[str, float]()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for name, step in steps.items():
        step()
        grown[name] = growth(step, given.device)
    for _ in range(given.repeats):
        for name, step in steps.items():
            times[name].append(1000 * clock.seconds(step, 1))
    rows: list[list[Any]] = [
        [name, f"{statistics.median(found):.0f}", f"{min(found):.0f} to {max(found):.0f}", f"{grown[name]:.2f}"]
        for name, found in times.items()
    ]
    machine = harness.machine(given.threads)
    harness.write(given.out, {"device": clock.name, "machine": machine, "times": times, "growth": grown})
    print(f"{one.b} x {one.d}, {one.classes} classes, on {clock.name}\n")
    print(table(["", "ms, median", "range", "growth, GB"], rows))


if __name__ == "__main__":
    main()
