"""Measure a server under load: many clients search an index of 10,000 items over loopback, with and without batching.

The server is `embex serve` in a separate process. The clients are threads of this process; each keeps one connection
open and has one request at a time. The index holds random vectors. The model is the default network after three
training steps, which embeds as fast as a trained one. A measurement begins after the map has been computed, and its
first second is not counted.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

import harness
from embedding_expansion.app.cli import main as embex
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.export import export
from embedding_expansion.retrieval.index import Item, create_index
from harness import table

WARM_UP = 1.0
BATCHED, ALONE = 32, 1


def make_index(folder: Path, items: int, side: int, options: list[str]) -> tuple[Path, list[bytes]]:
    """Make an index of random vectors with a model, and files to search with."""
    rng = np.random.default_rng(0)
    for number in range(32):  # any images to train on: the results do not matter
        (folder / "images" / str(number // 4)).mkdir(parents=True, exist_ok=True)
        (folder / "images" / str(number // 4) / f"{number}.jpg").write_bytes(_jpeg(rng, 64))
    small = "--steps 3 --device cpu --data.workers 0 --sampler.classes_per_batch 2 --sampler.images_per_class 2"
    given = ["--data", str(folder / "images"), "--out", str(folder / "run"), *small.split(), *options]
    if embex(["train", *given]) != 0:
        raise RuntimeError("the model could not be trained")
    export(folder / "run", "safetensors", folder / "model")
    dimensions = Embedder.load(folder / "model", device="cpu").dimensions
    with create_index(folder / "index", dimensions) as index:
        for file in (folder / "model").iterdir():
            index.files.put(file)
        index.add([Item(f"{i}.jpg", str(i % 100)) for i in range(items)], rng.standard_normal((items, dimensions)))
    return folder / "index", [_jpeg(rng, side) for _ in range(32)]


def _jpeg(rng: np.random.Generator, side: int) -> bytes:
    content = io.BytesIO()
    small = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    small.resize((side, side)).save(content, "JPEG", quality=90)
    return content.getvalue()


@contextmanager
def server(index: Path, batch_size: int, threads: int) -> Iterator[str]:
    """Return the address as host:port."""
    command = [sys.executable, "-m", "embedding_expansion", "serve", str(index), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    options = ["--batch_size", str(batch_size), "--queue", "256"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield urlsplit(re.findall(r"http://\S+", line)[0]).netloc
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_for_the_map(address: str) -> None:
    """Wait for the map, which is computed in the background and would take a core from the measurement."""
    connection = http.client.HTTPConnection(address, timeout=60)
    for _ in range(3000):
        connection.request("GET", "/api/map")
        if json.load(connection.getresponse())["state"] == "ready":
            return
        time.sleep(0.1)
    raise RuntimeError("the map was not ready within five minutes")


def load(address: str, images: list[bytes], clients: int, seconds: float) -> dict[str, Any]:
    """Measure what the given number of clients get within the duration."""
    times: list[tuple[float, float]] = []  # when each answer arrived, and after how long
    refused: list[int] = []
    begin = time.perf_counter() + WARM_UP
    end = begin + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        turn = number
        while time.perf_counter() < end:
            sent = time.perf_counter()
            connection.request("POST", "/api/search?k=10", images[turn % len(images)])
            answer = connection.getresponse()
            answer.read()
            now = time.perf_counter()
            if answer.status != 200:
                refused.append(answer.status)
            elif sent >= begin:
                times.append((now, now - sent))
            turn += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = sorted(span for _, span in times)
    lasted = max((now for now, _ in times), default=end) - begin
    cuts = statistics.quantiles(spans, n=100) if len(spans) > 1 else [float("nan")] * 99
    return {
        "requests": len(spans),
        "refused": len(refused),
        "per second": len(spans) / lasted,
        "p50": cuts[49],
        "p95": cuts[94],
        "p99": cuts[98],
        "batch": _mean_batch(address),
    }


def _mean_batch(address: str) -> float:
    """Return the images per batch since the start of the server."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    total, count = (float(re.findall(rf"^embex_batch_size_{name} (\S+)", text, re.M)[0]) for name in ("sum", "count"))
    return total / max(count, 1)


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--items", type=int, default=10_000)
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    options.add_argument("--duration", type=float, default=8.0, help="duration of each measurement in seconds")
    options.add_argument("--side", type=int, default=256, help="side of the sent images in pixels")
    options.add_argument(
        "--train",
        default="--model.backbone conv4 --data.image_size 32",
        help="options of embex train, such as the backbone",
    )
    given = options.parse_args()
    if given.quick:
        given.items, given.clients, given.duration, given.side = 20, [2], 0.5, 32
    results, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        index, images = make_index(Path(folder), given.items, given.side, given.train.split())
        for clients in given.clients:
            for batch_size in (BATCHED,) if given.quick else (ALONE, BATCHED):
                with server(index, batch_size, given.threads) as address:
                    wait_for_the_map(address)
                    found = load(address, images, clients, given.duration)
                results.append({"clients": clients, "batch size": batch_size, **found})
                times = [f"{1000 * found[name]:.1f}" for name in ("p50", "p95", "p99")]
                rows.append([clients, batch_size, f"{found['batch']:.1f}", f"{found['per second']:.0f}", *times])
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    said = {"what": __doc__, "machine": harness.machine(given.threads), "items": given.items, "results": results}
    harness.write(given.out, {**said, "train": given.train, "side": given.side})
    header = ["clients", "batch_size", "images per batch", "requests/s", "p50, ms", "p95, ms", "p99, ms"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
