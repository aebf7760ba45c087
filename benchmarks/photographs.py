"""What large photographs cost: indexing made JPEG files of 12 megapixels, decoded at a reduced size and whole.

Each round indexes the same files with an untrained backbone three times: `reduced`, as the package decodes them;
`whole`, with all pixels decoded, as it did before; and `small`, the same photographs with a short side of 500 pixels,
which are decoded whole. The seconds of the CPU are those of all threads. The files are smooth waves with noise, which
compress about like photographs.

With `--cub DIR --weights FILE`, it measures instead what the reduced size changes: the test images of CUB-200-2011, or
of a part of it, are enlarged to a short side of 1,500 pixels, saved at quality 90, and embedded by MobileNetV2 in both
ways.
"""

from __future__ import annotations

import io
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
from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.inference.indexing import index_images
from embedding_expansion.retrieval.metrics import retrieval_metrics
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


def enlarged(path: Path) -> bytes:
    """The content of a JPEG file with the image, enlarged to a short side of 1,500 pixels."""
    image, content = Image.open(path).convert("RGB"), io.BytesIO()
    factor = 1500 / min(image.size)
    image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC).save(
        content, "JPEG", quality=90
    )
    return content.getvalue()


def accuracy(root: Path, weights: str) -> list[list[Any]]:
    """Recall@1 and MAP@R of both ways, on the same enlarged images."""
    images = open_dataset("cub", root=root, part=True).test
    half = [0.5, 0.5, 0.5]
    embedder = Embedder.from_backbone("mobilenet_v2", weights=weights, mean=half, std=half, image_size=224)
    vectors: dict[str, list[np.ndarray]] = {"whole": [], "reduced": []}
    reduced = Preprocessing.least
    for start in range(0, len(images), 32):
        contents = [enlarged(images.path(at)) for at in range(start, min(start + 32, len(images)))]
        for kind in vectors:
            Preprocessing.least = reduced if kind == "reduced" else property(lambda _: None)  # type: ignore[assignment]
            vectors[kind].append(embedder.embed(contents))
    Preprocessing.least = reduced  # type: ignore[method-assign]
    found = {kind: retrieval_metrics(np.concatenate(rows), images.labels, (1,)) for kind, rows in vectors.items()}
    return [
        [kind, *(f"{100 * each[name]:.2f}" for name in ("recall_at_1", "map_at_r"))] for kind, each in found.items()
    ]


def main() -> None:
    """Measures and prints."""
    options = harness.parser(__doc__)
    options.set_defaults(threads=2)
    options.add_argument("--repeats", type=int, default=3, help="rounds")
    options.add_argument("--count", type=int, default=64, help="photographs of each size")
    options.add_argument("--backbone", default="mobilenet_v2")
    options.add_argument("--cub", type=Path, default=None, help="folder of CUB-200-2011")
    options.add_argument("--weights", default=None, help="weights of MobileNetV2, for --cub")
    given = options.parse_args()
    if given.quick:
        given.count, given.backbone, given.repeats = 2, "conv4", 1
    torch.set_num_threads(given.threads)
    if given.cub is not None:
        print(harness.table(["decoded", "Recall@1", "MAP@R"], accuracy(given.cub, given.weights)))
        return
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
