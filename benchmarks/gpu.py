"""Time the search for the hardest pairs on a GPU, in milliseconds: forward and backward, beside the Gram product.

    python benchmarks/gpu.py --out gpu.json

If the search in torch takes more than twice the time of the Gram product at b = 4096, it needs a dedicated kernel.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch

import harness
from contenders import GramProduct, Ours, choose
from harness import Batch, Step, table

BAR, AT = 2.0, 4096  # bar: times the Gram product at this batch size


def milliseconds_of(step: Step, calls: int, device: str) -> float:
    """Return the milliseconds per call, measured when the device has finished all calls."""
    _wait(device)
    seconds = harness.seconds_per_call(lambda: (step(), _wait(device)), calls)
    return 1000 * seconds


def device_name(device: str) -> str:
    """Return the name of the card for the tables."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--device", default="cuda")
    options.add_argument("--sizes", nargs="+", type=int, default=[128, 1024, 4096, 16384])
    options.add_argument("--per-class", nargs="+", type=int, default=[2, 4])
    options.add_argument("--loss", default="multi_similarity")
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    if given.quick:
        given.sizes, given.repeats = [64], 2
    (row,) = choose([given.loss])[0]
    device = device_name(given.device)
    results: list[dict[str, Any]] = []
    report = {"device": device, "machine": harness.machine(given.threads), "results": results}
    rows = []
    for b in given.sizes:
        for k in given.per_class:
            embeddings, labels = Batch(b, k).make(given.device)
            contenders = [GramProduct(), Ours(row, None), *(Ours(row, n) for n in (2, 8, math.inf))]
            steps = {contender.name: contender.step(embeddings, labels) for contender in contenders}
            for step in steps.values():
                step()
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(given.repeats):
                for name, step in steps.items():
                    times[name].append(milliseconds_of(step, 10 if b <= 1024 else 2, given.device))
            results.append({"b": b, "k": k, "times": times})
            harness.write(given.out, report)  # written now, in case a large batch fails
            gram = statistics.median(times["gram"])
            for name, found in times.items():
                median = statistics.median(found)
                over = "" if b != AT or name == "gram" else "yes" if median <= BAR * gram else "NO"
                rows.append(
                    [b, k, name, f"{median:.3g}", f"{min(found):.3g} to {max(found):.3g}", f"{median / gram:.2f}", over]
                )
    print(f"{given.loss} on {device}, d = 512\n")
    print(table(["b", "K", "what", "ms", "range", "/ Gram", f"at most {BAR:g} x at b = {AT}"], rows))


if __name__ == "__main__":
    main()
