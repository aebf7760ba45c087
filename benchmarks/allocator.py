"""What keeping freed memory is worth on the CPU: images per second of a network, with and without.

The setting holds for a whole process, so each round runs one process with glibc's defaults and one with
`keep_freed_memory`, one after the other. Each trains on one batch and embeds it, a few times, and takes the fastest.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

import harness

PROGRAM = """
import json, resource, sys, time
import torch
from embedding_expansion.allocator import keep_freed_memory
from embedding_expansion.model.network import EmbeddingModel

backbone, size, batch, keeps, threads, times = sys.argv[1], *map(int, sys.argv[2:])
if keeps and not keep_freed_memory():
    sys.exit("this C library has no such setting")
torch.set_num_threads(threads)
model = EmbeddingModel(backbone, freeze_batch_norm=True).to(memory_format=torch.channels_last)
images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)

def fastest(work):
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return batch / min(took)

train = fastest(lambda: model(images).mean().backward())
embed = fastest(lambda: model.embed(images))
print(json.dumps({"train": train, "embed": embed, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure(backbone: str, size: int, batch: int, keeps: bool, threads: int, times: int) -> dict[str, float]:
    """Images per second in training and embedding, and the peak memory in MiB, of a fresh process."""
    given = [str(int(value)) for value in (size, batch, keeps, threads, times)]
    ran = subprocess.run([sys.executable, "-c", PROGRAM, backbone, *given], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def main() -> None:
    """Measures and prints."""
    options = harness.parser(__doc__)
    options.set_defaults(repeats=3, threads=2)
    options.add_argument("--backbones", nargs="+", default=["mobilenet_v2", "resnet18"])
    options.add_argument("--sizes", nargs="+", type=int, default=[128, 224])
    options.add_argument("--batch", type=int, default=64)
    given = options.parse_args()
    if given.quick:
        given.backbones, given.sizes, given.batch, given.repeats = ["conv4"], [32], 4, 1
    rows: list[list[Any]] = []
    results = []
    for backbone in given.backbones:
        for size in given.sizes:
            rounds = [
                [measure(backbone, size, given.batch, keeps, given.threads, times=4) for keeps in (False, True)]
                for _ in range(given.repeats)
            ]
            results.append({"backbone": backbone, "size": size, "rounds": rounds})
            row: list[Any] = [backbone, size]
            for name in ("train", "embed"):
                ratios = [kept[name] / default[name] for default, kept in rounds]
                row += [f"{statistics.median(arm[i][name] for arm in rounds):.0f}" for i in (0, 1)]
                row.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
            rows.append([*row, *(f"{statistics.median(arm[i]['peak'] for arm in rounds):.0f}" for i in (0, 1))])
    harness.write(given.out, {"what": __doc__, "machine": harness.machine(given.threads), "results": results})
    header = ["backbone", "pixels", "train, default", "train, kept", "ratio", "embed, default", "embed, kept", "ratio"]
    print(harness.table([*header, "peak MiB, default", "peak MiB, kept"], rows))


if __name__ == "__main__":
    main()
