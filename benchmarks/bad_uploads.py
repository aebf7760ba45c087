"""Measure how long an ordinary search takes while other clients send uploads that keep the server busy.

The server is `embex serve` in a separate process. One client searches with a photograph repeatedly, while two others
send the same bad upload repeatedly, or 600 connections hold half-sent headers. Everything runs on 127.0.0.1 and ends
by itself. "Memory" is the peak of the server and its processes, minus their memory at the start of the measurement.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

import harness
import load
from harness import table

sys.path.insert(0, str(Path(__file__).parent / "reliability"))

import server as reliability

SENDERS, CONNECTIONS, PATIENCE = 2, 600, 60.0
Fault = Callable[[str], AbstractContextManager[list[int]]]


def asked(address: str, image: bytes) -> int:
    """Return the status of the answer to an upload, or 0 if there is no answer."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/api/search?k=10", image)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    return 0


@contextlib.contextmanager
def undisturbed(address: str) -> Iterator[list[int]]:
    yield []


@contextlib.contextmanager
def half_headers(address: str) -> Iterator[list[int]]:
    """Open connections whose headers never end."""
    host, port = address.rsplit(":", 1)
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")
        yield []


def sending(image: bytes) -> Fault:
    """Send an upload repeatedly from other clients, and collect the statuses of the answers."""

    @contextlib.contextmanager
    def send(address: str) -> Iterator[list[int]]:
        statuses, is_over = list[int](), threading.Event()

        def work() -> None:
            while not is_over.is_set():
                statuses.append(asked(address, image))
                is_over.wait(0.05)

        threads = [threading.Thread(target=work) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        try:
            yield statuses
        finally:
            is_over.set()
            for thread in threads:
                thread.join()

    return send


def faults(quick: bool) -> dict[str, Fault]:
    """Return what the other clients do meanwhile, by name."""
    side = 300 if quick else 7_000
    ramp = np.arange(side)[:, None, None].repeat(side, axis=1).astype(np.uint8)  # 300 kB as a PNG
    return {
        "nothing": undisturbed,
        "JPEG of 195 scans, 49 megapixels": sending(reliability.jpeg_of_scans(195, side)),
        "JPEG of 95 scans, 49 megapixels": sending(reliability.jpeg_of_scans(95, side)),
        "PPM of 18 MB": sending(reliability.huge_ppm(random.Random(0))),
        "PNG of 49 megapixels": sending(reliability.file_of("PNG", ramp.repeat(3, axis=2))),
        f"half-sent headers on {CONNECTIONS} connections": half_headers,
    }


def resident(process: int) -> float:
    """Return the memory of a process and its children in MB."""
    total = 0.0
    for number in (process, *(child for child, _ in reliability.children(process))):
        with contextlib.suppress(OSError, IndexError):
            total += int(Path(f"/proc/{number}/status").read_text().split("VmRSS:")[1].split()[0]) / 1e3
    return total


def measure(address: str, process: int, photograph: bytes, fault: Fault, seconds: float) -> dict[str, Any]:
    """Measure the answers of one client beside a fault, for the duration or for one longer search."""
    begin = most = resident(process)
    spans, failed, is_over = list[float](), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_over.wait(0.05):
            most = max(most, resident(process))

    watching = threading.Thread(target=watch)
    watching.start()
    with fault(address) as statuses:
        time.sleep(min(0.5, seconds))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            sent = time.perf_counter()
            failed += asked(address, photograph) != 200
            spans.append(time.perf_counter() - sent)
            time.sleep(0.02)
    is_over.set()
    watching.join()
    return {
        "searches": len(spans),
        "failed": failed,
        "median": statistics.median(spans),
        "longest": max(spans),
        "statuses": sorted(set(statuses)),
        "bad uploads": len(statuses),
        "memory": most,
        "more": most - begin,
    }


def main() -> None:
    options = harness.parser(__doc__)
    options.add_argument("--items", type=int, default=10_000)
    options.add_argument("--duration", type=float, default=10.0, help="minimum duration of each measurement in seconds")
    options.add_argument(
        "--train",
        default="--model.backbone conv4 --data.image_size 32",
        help="options of embex train, such as the backbone",
    )
    given = options.parse_args()
    if given.quick:
        given.items, given.duration = 20, 0.5
    results, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        index, images = load.make_index(Path(folder), given.items, 256, given.train.split())
        measured = list(faults(given.quick).items())
        for name, fault in measured[-2:] if given.quick else measured:  # one server each
            with load.server(index, load.BATCHED, given.threads) as address:
                load.wait_for_the_map(address)
                (process,) = (n for n, command in reliability.children(os.getpid()) if "serve" in command)
                found = measure(address, process, images[0], fault, given.duration)
            results.append({"others send": name, **found})
            times = [f"{1000 * found[key]:.0f}" for key in ("median", "longest")]
            statuses = " ".join(map(str, found["statuses"]))
            rows.append([name, found["searches"], found["failed"], *times, statuses, f"{found['more']:.0f}"])
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    harness.write(given.out, {"what": __doc__, "machine": harness.machine(given.threads), "results": results})
    header = ["others send", "searches", "failed", "median, ms", "longest, ms", "their statuses", "memory, MB more"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
