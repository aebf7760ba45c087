"""What a set of shrunk images saves and costs, for `embex data prepare`.

`--part storage` (needs `--cub DIR`) shrinks 300 test images of CUB-200-2011, or of a part of it, which were enlarged
to a short side of 1,500 pixels, to one of 256 pixels. It keeps them in several ways, and prints the bytes per image and
the images that one core reads in a second. `files` are one file per image, `shard` is one file with all of them, and
`array` is one memory-mapped file of uncompressed pixels.

`--part accuracy` (also needs `--weights FILE`) shrinks all test images to a short side of 96 pixels, and prints
Recall@1 and MAP@R of the features of MobileNetV2 at 84 pixels, which is the proportion of 256 to 224. `mixed` has the
originals as queries and the shrunk images as gallery.

`--part training` trains a backbone for some steps on made JPEG files of 12 megapixels, on the set that
`prepare_images` makes of them, and on the same batches from memory, in turn and in one process, and prints the images
per second, what the steps waited for, and the milliseconds of the processors.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import harness
import photographs
from embedding_expansion import Embedder, MultiSimilarityLoss
from embedding_expansion.allocator import keep_freed_memory
from embedding_expansion.data.datasets import open_dataset
from embedding_expansion.data.decoding import decode
from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.loader import batches
from embedding_expansion.data.preparing import SIZE, prepare_images
from embedding_expansion.data.preprocessing import Preprocessing
from embedding_expansion.data.reading import ReadingClock
from embedding_expansion.data.sampler import ClassBalancedSampler
from embedding_expansion.data.transforms import train_transform
from embedding_expansion.model.network import make_model
from embedding_expansion.retrieval.metrics import retrieval_metrics
from embedding_expansion.runs.options import ModelConfig
from photographs import enlarged, write_photographs

READ = 300  # images that are read in a round
SHORT = 96  # of the part accuracy
ENCODINGS: dict[str, tuple[str, dict[str, int]]] = {
    "JPEG 90": ("JPEG", {"quality": 90}),
    "JPEG 95": ("JPEG", {"quality": 95}),
    "JPEG 95, 4:4:4": ("JPEG", {"quality": 95, "subsampling": 0}),
    "WebP 90": ("WEBP", {"quality": 90}),
    "PNG": ("PNG", {}),
}
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "Lanczos": Image.Resampling.LANCZOS}
CLASSES, IMAGES = 8, 4  # of a batch
COLUMNS = ("images/s", "of memory's", "waiting", "CPU ms per image, model", "CPU ms per image, decoding")


def shrunk(path: Path, size: int, name: str) -> np.ndarray:
    """The pixels of an image at a short side of `size`."""
    pixels = decode(path, least=Preprocessing(size).least)
    height, width = pixels.shape[:2]
    factor = min(1, size / min(height, width))
    return np.asarray(Image.fromarray(pixels).resize((round(width * factor), round(height * factor)), FILTERS[name]))


def encoded(pixels: np.ndarray, encoding: str) -> bytes:
    """The content of a file with these pixels."""
    kind, options = ENCODINGS[encoding]
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


class Kept:
    """Images written into a folder: as a file each, and as one file with all of them."""

    def __init__(self, folder: Path, images: list[np.ndarray], encoding: str | None) -> None:
        contents = [image.tobytes() if encoding is None else encoded(image, encoding) for image in images]
        self.bytes = sum(map(len, contents)) / len(contents)
        self.ends = np.cumsum([0, *map(len, contents)])
        self.shapes, self.encoding, self.folder = [image.shape for image in images], encoding, folder
        folder.mkdir()
        for number, content in enumerate(contents):
            (folder / str(number)).write_bytes(content)
        (folder / "shard").write_bytes(b"".join(contents))
        self.mapped = np.memmap(folder / "shard", dtype=np.uint8, mode="r")

    def file(self, number: int) -> np.ndarray:
        """Reads an image from its own file."""
        return decode(self.folder / str(number))

    def shard(self, number: int) -> np.ndarray:
        """Reads an image from the file that has all of them."""
        part = self.mapped[self.ends[number] : self.ends[number + 1]]
        return part.reshape(self.shapes[number]).copy() if self.encoding is None else decode(part.tobytes())


def _ways(kept: Kept) -> list[tuple[str, Callable[[int], np.ndarray]]]:
    return [("array", kept.shard)] if kept.encoding is None else [("files", kept.file), ("shard", kept.shard)]


def rate(read: Callable[[int], np.ndarray], repeats: int) -> float:
    """Images per second of one core, the median of the rounds, by the seconds of the processor."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        for number in range(READ):
            read(number)
        found.append(READ / (time.process_time() - began))
    return statistics.median(found)


def storage(root: Path, repeats: int, folder: Path) -> list[list[Any]]:
    """A row for each way of keeping images: bytes, and images per second of one core."""
    images = open_dataset("cub", root=root, part=True).test
    paths = []
    for number in np.linspace(0, len(images) - 1, READ).round().astype(int).tolist():
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(enlarged(images.path(number)))
    small, size = [shrunk(path, SIZE, "bilinear") for path in paths], statistics.mean(p.stat().st_size for p in paths)
    rows: list[list[Any]] = [["enlarged originals", size, rate(lambda number: decode(paths[number], least=358), 1)]]
    for encoding in (None, *ENCODINGS):
        kept = Kept(folder / str(encoding), small, encoding)
        for kind, read in _ways(kept):
            rows.append([f"{encoding or 'uncompressed'}, {kind}", kept.bytes, rate(read, repeats)])
            print(rows[-1], flush=True)
    return [[name, f"{size / 1000:.1f}", f"{speed:.0f}"] for name, size, speed in rows]


def accuracy(root: Path, weights: str) -> list[list[Any]]:
    """A row for each way of shrinking: the measures of the features."""
    images = open_dataset("cub", root=root, part=True).test
    paths, half = [images.path(number) for number in range(len(images))], [0.5] * 3
    embedder = Embedder.from_backbone("mobilenet_v2", weights=weights, mean=half, std=half, image_size=SHORT * 7 // 8)
    whole = embedder.embed(paths)

    def measured(vectors: np.ndarray) -> list[str]:
        similarity = whole @ vectors.T
        np.fill_diagonal(similarity, -2)  # the shrunk copy of the query itself
        mixed = float((images.labels[similarity.argmax(1)] == images.labels).mean())
        own = retrieval_metrics(vectors, images.labels, (1,))
        return [f"{100 * value:.2f}" for value in (own["recall_at_1"], own["map_at_r"], mixed)]

    rows: list[list[Any]] = [["originals", *measured(whole)]]
    for name in FILTERS:
        small = [shrunk(path, SHORT, name) for path in paths]
        for encoding in (None, *ENCODINGS):
            pixels = small if encoding is None else [decode(encoded(each, encoding)) for each in small]
            rows.append([f"{name}, {encoding or 'uncompressed'}", *measured(embedder.embed(pixels))])
            print(rows[-1], flush=True)
    return rows


def in_memory(images: ImageSet, steps: int, size: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The batch of the first step, again and again."""
    sampler = ClassBalancedSampler(images.labels, CLASSES, IMAGES, 0)
    (_, pixels, labels), *_ = batches(images, sampler, train_transform(size, "crop_flip"), seed=0, stop=1)
    for step in range(steps):
        yield step, pixels, labels


def train(
    images: ImageSet, backbone: str, steps: int, size: int, workers: int, *, memory: bool = False
) -> tuple[float, float, float, float]:
    """Trains; returns what `COLUMNS` says, without the first step."""
    torch.manual_seed(0)
    model = make_model(ModelConfig(backbone=backbone)).to(memory_format=torch.channels_last)
    loss, clock = MultiSimilarityLoss(), ReadingClock()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    sampler, transform = ClassBalancedSampler(images.labels, CLASSES, IMAGES, 0), train_transform(size, "crop_flip")
    stream = (
        in_memory(images, steps + 1, size)
        if memory
        else batches(images, sampler, transform, seed=0, stop=steps + 1, workers=workers, clock=clock)
    )
    began, used, count = 0.0, 0.0, steps * CLASSES * IMAGES
    for step, pixels, labels in stream:
        if step == 1:
            clock.waiting, clock.computing, clock.decoding = 0.0, 0.0, 0.0
            began, used = time.perf_counter(), time.process_time()
        with clock.computes():
            _step(model, loss, optimizer, pixels, labels)
    used = time.process_time() - used
    speed = count / (time.perf_counter() - began)
    return speed, clock.share, 1000 * used / count, 1000 * clock.decoding / count


def _step(model: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer, pixels: Tensor, labels: Tensor) -> None:
    value = loss(model(pixels), labels)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()


def training(folder: Path, given: Any) -> tuple[list[list[Any]], dict[str, Any]]:
    """A row for each way to feed the training; and the samples, and how long it took to shrink the photographs."""
    photographs.SIZES = {"large": (400, 300) if given.quick else photographs.SIZES["large"]}
    write_photographs(folder, 2 * CLASSES * IMAGES)
    whole = folder / "photographs"
    for number, path in enumerate(sorted((folder / "large").glob("*.jpg"))):
        place = whole / f"class {number // IMAGES:02d}"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
    began = time.perf_counter()
    prepare_images(str(whole), folder / "small set", workers=given.workers)
    seconds = time.perf_counter() - began
    original, prepared = (open_dataset(str(place)).train for place in (whole, folder / "small set"))
    ways: dict[str, Callable[[], tuple[float, float, float, float]]] = {
        "originals": lambda: train(original, given.backbone, given.steps, given.size, given.workers),
        "prepared": lambda: train(prepared, given.backbone, given.steps, given.size, given.workers),
        "memory": lambda: train(prepared, given.backbone, given.steps, given.size, 0, memory=True),
    }
    samples: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in ways}
    for _ in range(given.repeats):
        for name, run in ways.items():
            samples[name].append(run())
    rows: list[list[Any]] = []
    for name, found in samples.items():
        speed, share, model, decoding = (statistics.median(column) for column in zip(*found, strict=True))
        spread = f"{speed:.1f} ({min(found)[0]:.1f} to {max(found)[0]:.1f})"
        ratio = statistics.median(mine[0] / full[0] for mine, full in zip(found, samples["memory"], strict=True))
        rows.append([name, spread, f"{ratio:.2f}", f"{share:.0%}", f"{model:.1f}", f"{decoding:.1f}"])
    return rows, {"samples": samples, "seconds to shrink": seconds, "photographs": 2 * CLASSES * IMAGES}


def main() -> None:
    """Measures and prints."""
    options = harness.parser(__doc__)
    options.set_defaults(threads=2)
    options.add_argument("--part", choices=["storage", "accuracy", "training"], default="training")
    options.add_argument("--repeats", type=int, default=3, help="rounds")
    options.add_argument("--backbone", default="mobilenet_v2", help="of the part training")
    options.add_argument("--steps", type=int, default=8, help="of the part training")
    options.add_argument("--workers", type=int, default=2, help="processes that decode")
    options.add_argument("--size", type=int, default=224, help="pixels of an image, of the part training")
    options.add_argument("--cub", type=Path, default=None, help="folder of CUB-200-2011, for the other parts")
    options.add_argument("--weights", default=None, help="weights of MobileNetV2, for the part accuracy")
    given = options.parse_args()
    if given.quick:
        given.backbone, given.steps, given.repeats, given.size = "conv4", 1, 1, 32
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        if given.part == "storage":
            rows = storage(given.cub, given.repeats, Path(folder))
            head, results = ["kept as", "kB", "images/s of a core"], {"rows": rows}
        elif given.part == "accuracy":
            rows = accuracy(given.cub, given.weights)
            head, results = ["shrunk by", "Recall@1", "MAP@R", "mixed Recall@1"], {"rows": rows}
        else:
            rows, results = training(Path(folder), given)
            head = ["images from", *COLUMNS]
    harness.write(given.out, {"what": __doc__, "machine": harness.machine(given.threads), "results": results})
    print(harness.table(head, rows))


if __name__ == "__main__":
    main()
