"""Time a loss as a share of a training step: forward and backward of a backbone and the loss on its embeddings.

    python benchmarks/step.py --out step.json

The backbone runs once per round, and then the losses run on embeddings of the size of its output.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch

import harness
from contenders import Ours, choose, searches
from harness import Batch, milliseconds, seconds_per_call, table

MOST = 0.01  # bar: share of a step
CALLS = 20  # calls of a loss per sample


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--backbone", default="googlenet", help="a torchvision name")
    options.add_argument("--image-size", type=int, default=227)
    options.add_argument("--size", type=int, default=128, help="images of a batch")
    options.add_argument("--per-class", type=int, default=2)
    options.add_argument("--losses", nargs="+", default=["triplet", "multi_similarity"])
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    if given.quick:
        given.backbone, given.image_size, given.size, given.repeats = "mobilenet_v3_small", 32, 8, 1
    torch.set_num_threads(given.threads)
    from torchvision import models

    backbone = models.get_model(given.backbone, weights=None, num_classes=512, **_plain(given.backbone)).train()
    backbone.to(memory_format=torch.channels_last)
    images = torch.randn(given.size, 3, given.image_size, given.image_size).to(memory_format=torch.channels_last)
    batch = Batch(given.size, given.per_class)
    embeddings, labels = batch.make()
    rows = choose(given.losses)[0]
    forms = [(None, "torch"), *((2, search) for search in searches()), (math.inf, "torch")]
    losses = [Ours(row, n, search) for row in rows for n, search in forms]
    steps = {f"{one.row.name}, {one.name}": one.step(embeddings, labels) for one in losses}
    times: dict[str, list[float]] = {name: [] for name in ("backbone", *steps)}
    for _ in range(given.repeats):
        times["backbone"].append(seconds_per_call(lambda: backbone(images).sum().backward(), 1))
        for name, step in steps.items():
            step()
            times[name].append(seconds_per_call(step, CALLS))
    report: dict[str, Any] = {
        "what": f"seconds, forward + backward; {given.backbone}, {given.size} images of {given.image_size} pixels",
        "machine": harness.machine(given.threads),
        "times": times,
    }
    harness.write(given.out, report)
    step_time = statistics.median(times["backbone"])
    print(f"{given.backbone}, {given.image_size} px, b = {given.size}: {step_time:.2f} s forward + backward\n")
    shares = {name: statistics.median(t) / (step_time + statistics.median(t)) for name, t in times.items()}
    lines = [
        [name, milliseconds(times[name]), f"{share:.3%}", "yes" if share <= MOST else "NO"]
        for name, share in shares.items()
        if name != "backbone"
    ]
    print(table(["loss", "ms", "share of a step", f"at most {MOST:.0%}"], lines))


def _plain(backbone: str) -> dict[str, Any]:
    """Return the backbone without auxiliary heads, which only help training from scratch."""
    return {"aux_logits": False, "init_weights": True} if backbone == "googlenet" else {}


if __name__ == "__main__":
    main()
