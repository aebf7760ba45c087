"""What large photographs cost: indexing made JPEG files of 12 megapixels, decoded at a reduced size and whole.

Each round indexes the same files with an untrained backbone three times: `reduced`, as the package decodes them;
`whole`, with all pixels decoded, as it did before; and `small`, the same photographs with a short side of 500 pixels,
which are decoded whole. The seconds of the CPU are those of all threads. The files are smooth waves with noise, which
compress like photographs of that size (1.5 to 3 MB).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import harness
from embedding_expansion import Embedder
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.inference.indexing import index_images
from opening import save_model

SIZES = {"large": (4000, 3000), "small": (667, 500)}
KINDS = ("reduced", "whole", "small")


def write_photographs(folder: Path, count: int) -> None:
    """Writes `count` photographs of each size."""
    draw = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        (folder / name).mkdir()
        across, down = np.arange(width) / width, np.arange(height)[:, None] / height
        for number in range(count):
            waves = [np.sin(9 * (number + part + 1) * (across + down * part)) for part in range(3)]
            noise = draw.normal(0, 5, (height, width, 1))
            pixels = (np.stack([wave + 0 * down for wave in waves], 2) * 80 + 128 + noise).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.jpg", quality=90)


def index(embedder: Embedder, files: list[Path], place: Path) -> tuple[float, float]:
    """Indexes files; returns seconds by the clock and of the CPU."""
    began, used = time.perf_counter(), time.process_time()
    index_images(embedder, files, place)
    return time.perf_counter() - began, time.process_time() - used


def measure(folder: Path, count: int, backbone: str, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """The seconds of each kind, a sample per round."""
    write_photographs(folder, count)
    save_model(folder / "model", backbone)
    embedder = Embedder.load(folder / "model", device="cpu")
    files = {name: sorted((folder / name).glob("*.jpg")) for name in SIZES}
    least, samples = Preprocessing.least, {kind: list[tuple[float, float]]() for kind in KINDS}
    index(embedder, files["small"], folder / "warm")
    for number in range(repeats):
        for kind in KINDS:
            Preprocessing.least = property(lambda _: None) if kind == "whole" else least  # type: ignore[assignment]
            chosen = files["small" if kind == "small" else "large"]
            samples[kind].append(index(embedder, chosen, folder / f"{kind}-{number}"))
    Preprocessing.least = least  # type: ignore[method-assign]
    return samples


def main() -> None:
    """Measures and prints."""
    options = harness.parser(__doc__)
    options.set_defaults(threads=2)
    options.add_argument("--repeats", type=int, default=3, help="rounds")
    options.add_argument("--count", type=int, default=64, help="photographs of each size")
    options.add_argument("--backbone", default="mobilenet_v2")
    given = options.parse_args()
    if given.quick:
        given.count, given.backbone, given.repeats = 2, "conv4", 1
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        samples = measure(Path(folder), given.count, given.backbone, given.repeats)
    rows: list[list[Any]] = []
    for kind, found in samples.items():
        clock, cpu = (statistics.median(one[at] for one in found) for at in (0, 1))
        faster = statistics.median(a[0] / b[0] for a, b in zip(samples["whole"], found, strict=True))
        cells = [f"{1000 * clock / given.count:.0f}", f"{1000 * cpu / given.count:.0f}", f"{faster:.2f}"]
        rows.append([kind, *cells])
    results = {"count": given.count, "backbone": given.backbone, "seconds": samples}
    harness.write(given.out, {"what": __doc__, "machine": harness.machine(given.threads), "results": results})
    print(harness.table(["photographs", "ms per image", "CPU ms per image", "times as fast as whole"], rows))


if __name__ == "__main__":
    main()
