"""Send a server harmful requests, and count after how many of them the next ordinary request is answered.

    python benchmarks/reliability/server.py --tries 20

The server is `embex serve` in a separate process on 127.0.0.1. Nothing is sent to other hosts, and everything ends by
itself. A fault is survived if the answer is a result, or one sentence with a status of 4xx or 5xx, and the same process
then answers an ordinary search. If no answer is expected (half a request, invalid HTTP), only the ordinary search
counts. The seed determines what is sent.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from faults import Count, print_table
from indexes import made
from PIL import Image

SECONDS = 60.0  # limit for an answer; a longer one counts as hanging
CONNECTIONS = 600  # with half-sent headers at once


class Server(NamedTuple):
    """The address and the process of a server."""

    port: int
    process: int

    def search(self, image: bytes, seconds: float = SECONDS) -> tuple[int, bytes]:
        """Return the status and the body of the answer to an upload."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request("POST", "/api/search", image)
            answer = connection.getresponse()
            return answer.status, answer.read()

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """Open a connection that has sent nothing."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as connection:
            yield connection

    def is_well(self) -> bool:
        """Return whether the process that was started answers an ordinary search."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            os.kill(self.process, 0)
            status, body = self.search(ORDINARY)
            return status == 200 and len(json.loads(body)["matches"]) > 0
        return False


def survives(server: Server, image: bytes) -> bool:
    """Return whether an upload gets a result or a sentence, and the next one its answer."""
    try:
        status, body = server.search(image)
        answer = json.loads(body)
    except (OSError, http.client.HTTPException, ValueError):
        return False
    is_sentence = 400 <= status < 600 and isinstance(answer.get("detail"), str) and "\n" not in answer["detail"]
    return (status == 200 or is_sentence) and server.is_well()


def file_of(kind: str, pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    content = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(content, kind, **options)
    return content.getvalue()


ORDINARY = file_of("PNG", np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def some_image(rng: random.Random) -> bytes:
    """Return a small image in one of the accepted formats."""
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (rng.randint(8, 90), 60, 3), dtype=np.uint8)
    return file_of(rng.choice(["JPEG", "PNG", "WEBP", "GIF"]), pixels)


def truncated(rng: random.Random) -> bytes:
    image = some_image(rng)
    return image[: rng.randrange(1, len(image))]


def damaged(rng: random.Random) -> bytes:
    image = bytearray(some_image(rng))
    for _ in range(rng.randint(1, 20)):
        image[rng.randrange(len(image))] = rng.randrange(256)
    return bytes(image)


def random_bytes(rng: random.Random) -> bytes:
    starts = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\1\0\0WEBPVP8 "]
    return rng.choice(starts) + rng.randbytes(rng.randint(0, 20_000))


def other_types(rng: random.Random) -> bytes:
    picture = Image.new("RGB", (30, 20))
    return rng.choice(
        [
            b"",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
            b"PK\x03\x04" + bytes(100),
            b"<!doctype html><script>alert(1)</script>",
            b"RIFF\x24\0\0\0WAVEfmt ",
            *(file_of(kind, picture) for kind in ("TIFF", "BMP", "PPM", "TGA", "ICO")),
        ]
    )


def too_many_bytes(rng: random.Random) -> bytes:
    return bytes(20_000_001 + rng.randrange(5_000_000))


def bomb(rng: random.Random) -> bytes:
    """Return a small file of an enormous image: one in its header only, or a real one."""
    side = rng.choice([8_000, 20_000, 65_500])
    if rng.random() < 0.5:
        return file_of(rng.choice(["PNG", "GIF"]), Image.new("1" if side < 20_000 else "L", (8_000, 8_000)))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(3_000_000))
    chunks = [(b"IHDR", head), (b"IDAT", rows), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def many_scans(rng: random.Random) -> bytes:
    """Return a progressive JPEG whose scans pass over its 49 million pixels repeatedly."""
    return jpeg_of_scans(rng.choice([90, 100, 200, 5_000]))


def jpeg_of_scans(scans: int, side: int = 7_000) -> bytes:
    """Return a JPEG of many scans in a few hundred kilobytes, by repeating the last scan."""
    file = file_of("JPEG", Image.new("L", (side, side), 128), progressive=True)
    starts = [found.start() for found in re.finditer(b"\xff\xda", file)]
    return file[:-2] + file[starts[-1] : -2] * (scans - len(starts)) + file[-2:]


def huge_ppm(rng: random.Random) -> bytes:
    """Return 18 megabytes that Pillow decodes pixel by pixel in Python."""
    return b"P6\n2450 2450\n%d\n" % rng.randrange(200, 255) + bytes(2450 * 2450 * 3)


def megapixels_49(rng: random.Random) -> bytes:
    """Return the largest image within all limits."""
    kind, mode = rng.choice([("PNG", "RGB"), ("PNG", "I;16"), ("PNG", "RGBA"), ("JPEG", "CMYK"), ("GIF", "P")])
    return file_of(kind, Image.new(mode, (7_000, 7_000)))


def thin(rng: random.Random) -> bytes:
    sides = [(rng.randint(5_000, 60_000), rng.randint(1, 8))]
    return file_of("PNG", Image.new("RGB", rng.choice([sides[0], sides[0][::-1]])))


UPLOADS: dict[str, tuple[Callable[[random.Random], bytes], float]] = {  # maker, and uploads per try
    "truncated images": (truncated, 5),
    "images with damaged bytes": (damaged, 5),
    "random bytes": (random_bytes, 5),
    "other types, and nothing": (other_types, 2),
    "more bytes than are allowed": (too_many_bytes, 0.2),
    "decompression bombs": (bomb, 1),
    "JPEG of many scans": (many_scans, 0.2),
    "PPM of 18 MB": (huge_ppm, 0.2),
    "images of 49 megapixels": (megapixels_49, 0.3),
    "thin images": (thin, 1),
}


def uploads(server: Server, kind: str, tries: int, seed: int) -> Count:
    """Send uploads of one kind, one after another."""
    make, share = UPLOADS[kind]
    number = max(1, round(share * tries))
    survived = sum(survives(server, make(random.Random(f"{seed} {kind} {place}"))) for place in range(number))
    return Count(f"upload: {kind}", number, survived)


def halves(server: Server, tries: int, seed: int) -> Count:
    """Send requests that stop anywhere: the client is gone, or holds back the rest while others ask."""
    rng, survived = random.Random(seed), 0
    for _ in range(tries):
        head = f"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {rng.randint(1, 10**6)}\r\n\r\n"
        request = head.encode() + ORDINARY
        with server.connected() as connection:
            connection.sendall(request[: rng.randrange(len(request))])
            if rng.random() < 0.5:
                connection.close()
            survived += server.is_well()
    return Count("half a request", tries, survived)


def no_http(server: Server, tries: int, seed: int) -> Count:
    """Send bytes that are not valid HTTP."""
    survived = 0
    for place in range(tries):
        rng = random.Random(f"{seed} {place}")
        with server.connected() as connection, contextlib.suppress(OSError):
            starts = [
                b"",
                b"GET ",
                b"POST /api/search HTTP/1.1\r\n",
                b"\x16\x03\x01",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ]
            connection.sendall(rng.choice(starts) + rng.randbytes(rng.randint(1, 100_000)))
        survived += server.is_well()
    return Count("invalid HTTP", tries, survived)


def half_headers(server: Server, tries: int, seed: int) -> Count:
    """Open many connections whose headers never end, and send ordinary requests at the same time."""
    survived = 0
    for _ in range(max(1, tries // 10)):
        with contextlib.ExitStack() as stack:
            for _ in range(CONNECTIONS):
                connection = stack.enter_context(server.connected())
                connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")
            survived += server.is_well()
    return Count(f"half-sent headers on {CONNECTIONS} connections", max(1, tries // 10), survived)


def killed_decoders(server: Server, tries: int, seed: int) -> Count:
    """Kill a decoder, while it decodes or is idle."""
    rng, survived = random.Random(seed), 0
    for _ in range(tries):
        end = time.monotonic() + 10
        while not (decoders := _decoders(server)) and time.monotonic() < end:
            time.sleep(0.05)  # the one that follows a killed one is only just started
        if decoders:
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(decoders), signal.SIGKILL)
        server.search(ORDINARY)  # it may be the image that was being decoded
        survived += bool(decoders) and server.is_well()
    return Count("SIGKILL of a decoder", tries, survived)


def _decoders(server: Server) -> list[int]:
    return [number for number, command in children(server.process) if "inference.decoder" in command]


def children(parent: int) -> list[tuple[int, str]]:
    """Return the child processes of a process, with their commands."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append((int(folder.name), (folder / "cmdline").read_text()))
    return found


def killed_servers(index: Path, tries: int, seed: int) -> Count:
    """Kill the server at any moment after its start: none of its processes may continue."""
    rng, survived = random.Random(seed), 0
    for _ in range(max(1, tries // 10)):
        with running(index) as server:
            time.sleep(rng.uniform(0, 3))
            left = [number for number, _ in children(server.process)]
            os.kill(server.process, signal.SIGKILL)
            end = time.monotonic() + 10
            while (alive := [number for number in left if _is_alive(number)]) and time.monotonic() < end:
                time.sleep(0.05)
            survived += not alive
            for number in alive:
                os.kill(number, signal.SIGKILL)
    return Count("SIGKILL of the server; its processes end", max(1, tries // 10), survived)


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def running(index: Path) -> Iterator[Server]:
    """Serve an index inside the `with` block."""
    command = [sys.executable, "-m", "embedding_expansion", "serve", str(index), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield Server(int(re.findall(r"http://127\.0\.0\.1:(\d+)", line)[0]), process.pid)
        finally:
            if process.poll() is None:
                process.terminate()


def counts(tries: int = 20, seed: int = 0) -> Iterator[Count]:
    """Count all kinds on a new index."""
    with tempfile.TemporaryDirectory(prefix="embex-reliability-") as folder:
        model, photos = made(Path(folder))
        index = Path(folder) / "index"
        command = ["index", str(model), str(photos), "--out", str(index)]
        subprocess.run([sys.executable, "-m", "embedding_expansion", *command], check=True, stdout=subprocess.DEVNULL)
        with running(index) as server:
            for kind in UPLOADS:
                yield uploads(server, kind, tries, seed)
            for fault in (halves, no_http, half_headers, killed_decoders):
                yield fault(server, tries, seed)
        yield killed_servers(index, tries, seed)


if __name__ == "__main__":
    print_table(__doc__, counts, 20)
