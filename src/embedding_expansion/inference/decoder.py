"""Decodes untrusted images in a separate process, which can be killed at any moment.

Run as a program, this module takes a `DecodeTask` and one end of a socket pair. It reads the bytes of an image,
replies with a verdict, and repeats until the other end is closed. The process knows neither the model nor the index,
does not import torch, has limited memory and cannot write files.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import socket
import struct
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from embedding_expansion.data.decoding import to_rgb
from embedding_expansion.data.preprocessing import Preprocessing, check_shape
from embedding_expansion.data.scans import has_more_scans
from embedding_expansion.data.thumbnails import SIDE, thumbnail
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.lifeline import end_with

#: An image with more pixels is large: decoding can take seconds.
LARGE = 16_000_000
#: A JPEG with more scans takes as long as a large image. An ordinary progressive JPEG has about ten.
MANY_SCANS = 20

_HEAD = struct.Struct("<BQ")  # a verdict and the number of bytes that follow


class Verdict(IntEnum):
    """The outcome of decoding. `UNKNOWN`, `TOO_LARGE` and `UNUSABLE` come with a sentence."""

    READY = 0  # the process has started
    SQUARE = 1  # the preprocessed pixels follow
    SLOW = 2  # the image is large and is left to a slower process
    UNKNOWN = 3  # the format is not allowed
    TOO_LARGE = 4
    UNUSABLE = 5  # the image is broken, too thin, ...
    WITH_THUMBNAIL = 6  # sent instead of READY with an image whose thumbnail is wanted as well


_SIZE = struct.Struct("<II")  # width and height of the whole upright image


@dataclass(frozen=True)
class DecodeTask:
    """The configuration of a decoding process.

    Attributes:
        preprocessing: the preprocessing of the decoded pixels.
        formats: the allowed formats, by Pillow's names.
        max_pixels: the maximum number of pixels of an image.
        leaves_slow: whether to reply `SLOW` for large images and images with many scans, instead of decoding them.
        memory: the memory limit in bytes, beyond the memory that the process starts with.
        niceness: added to the niceness of the parent process.
    """

    preprocessing: Preprocessing
    formats: tuple[str, ...]
    max_pixels: int
    leaves_slow: bool
    memory: int
    niceness: int = 0

    def to_json(self) -> str:
        """The task as an argument of the program."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> DecodeTask:
        """Reads the output of `to_json`."""
        read = json.loads(text)
        return cls(
            **read | {"preprocessing": Preprocessing(**read["preprocessing"]), "formats": tuple(read["formats"])}
        )


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        square: the input of the model, uint8 (size, size, 3).
        width, height: of the whole upright image, in pixels.
        thumbnail: its thumbnail; None if it was not asked for.
    """

    square: npt.NDArray[np.uint8]
    width: int
    height: int
    thumbnail: bytes | None

    def to_bytes(self) -> bytes:
        """The image as the content of a message."""
        return _SIZE.pack(self.width, self.height) + self.square.tobytes() + (self.thumbnail or b"")

    @classmethod
    def of_bytes(cls, content: bytes, size: int) -> Decoded:
        """Reads the output of `to_bytes`; `size` is the side of the square."""
        end = _SIZE.size + 3 * size**2
        width, height = _SIZE.unpack_from(content)
        square = np.frombuffer(content[_SIZE.size : end], np.uint8).reshape(size, size, 3)
        return cls(square, width, height, content[end:] or None)


def most_bytes(size: int) -> int:
    """The most bytes of a reply of a process whose squares have this side."""
    return _SIZE.size + 3 * size**2 + 3 * SIDE**2 + 10_000


def judge(content: bytes, task: DecodeTask, *, with_thumbnail: bool = False) -> tuple[Verdict, bytes]:
    """Decodes an image; returns the verdict with the content of a `Decoded`, or with a sentence."""
    try:
        with Image.open(io.BytesIO(content), formats=_supported(task.formats)) as image:
            return _judge_opened(image, task, with_thumbnail)
    except UnidentifiedImageError:
        *some, last = task.formats
        known = f"{', '.join(some)} or {last}" if some else last
        return Verdict.UNKNOWN, f"this is not an image in an accepted format; send {known}".encode()
    except (MemoryError, Image.DecompressionBombError):
        return Verdict.TOO_LARGE, b"the image takes too much memory to decode; send a smaller one"
    except InvalidInput as error:  # too thin
        return Verdict.UNUSABLE, f"{error}; crop the image".replace("it is", "the image is", 1).encode()
    except Exception as error:  # decoders raise all kinds of errors for broken files
        sentence = f"the image cannot be decoded ({error}); save it again, or send another"
        return Verdict.UNUSABLE, sentence.encode(errors="replace")


def _judge_opened(image: Image.Image, task: DecodeTask, with_thumbnail: bool) -> tuple[Verdict, bytes]:
    """Checks everything that the header reveals before the pixels are decoded."""
    width, height = image.size
    pixels = width * height
    most = min(task.max_pixels, Image.MAX_IMAGE_PIXELS or task.max_pixels)
    if pixels > most:
        sentence = f"the image has {pixels:,} pixels, but the limit is {most:,}; send a smaller one"
        return Verdict.TOO_LARGE, sentence.encode()
    check_shape(height, width)
    if task.leaves_slow and (pixels > LARGE or has_more_scans(image, MANY_SCANS)):
        return Verdict.SLOW, b""
    decoded = to_rgb(image, least=task.preprocessing.least)
    small = thumbnail(decoded, SIDE) if with_thumbnail else None
    if (width > height) != (decoded.shape[1] > decoded.shape[0]) and width != height:  # a camera was turned
        width, height = height, width
    return Verdict.SQUARE, Decoded(task.preprocessing(decoded), width, height, small).to_bytes()


def _supported(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats that this build of Pillow supports. AVIF is optional."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def send(connection: socket.socket, verdict: Verdict, content: bytes, deadline: float | None = None) -> None:
    """Sends a message.

    Args:
        connection: the socket to the other process.
        verdict: the verdict; `READY` to send an image.
        content: the content of the message.
        deadline: a time of `time.monotonic`; None waits forever.

        Raises:
            TimeoutError, OSError: the message cannot be sent in time, or at all.
    """
    for part in (_HEAD.pack(verdict, len(content)), content):
        _set_timeout(connection, deadline)
        connection.sendall(part)


def receive(connection: socket.socket, most: int, deadline: float | None = None) -> tuple[Verdict, bytes]:
    """Receives the next message.

    Args:
        connection: the socket to the other process.
        most: the maximum number of bytes of the content.
        deadline: a time of `time.monotonic`; None waits forever.

    Raises:
        TimeoutError, OSError, EOFError: no message arrives, or a longer one.
    """
    kind, size = _HEAD.unpack(_exactly(connection, _HEAD.size, deadline))
    if size > most:
        raise EOFError(f"a message of {size:,} bytes where {most:,} are allowed")
    return Verdict(kind), bytes(_exactly(connection, size, deadline))


def _exactly(connection: socket.socket, count: int, deadline: float | None) -> bytearray:
    content, have = bytearray(count), 0
    while have < count:
        _set_timeout(connection, deadline)
        got = connection.recv_into(memoryview(content)[have:])
        if not got:
            raise EOFError("the other process has ended")
        have += got
    return content


def _set_timeout(connection: socket.socket, deadline: float | None) -> None:
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError("the deadline has passed")
    connection.settimeout(left)


def confine(memory: int) -> None:
    """Limits the memory of this process, and forbids it to write files and core dumps.

    Args:
        memory: bytes beyond the memory that the process has now.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + memory
    for what, bound in ((resource.RLIMIT_AS, most), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (bound, bound))


def main(parent: int, descriptor: int, most: int, task: DecodeTask) -> None:
    """Runs the program.

    Args:
        parent: the id of the parent process.
        descriptor: the file descriptor of its end of the socket pair.
        most: the maximum number of bytes of an image.
        task: the configuration.
    """
    end_with(parent)
    os.nice(task.niceness)
    warnings.simplefilter("ignore")
    _supported(task.formats)  # loads the plugins
    if "AVIF" in Image.OPEN:
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    confine(task.memory)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError, OSError):
        send(connection, Verdict.READY, b"")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # C libraries print their warnings there
        while True:
            asked, content = receive(connection, most)
            send(connection, *judge(content, task, with_thumbnail=asked is Verdict.WITH_THUMBNAIL))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), DecodeTask.of_json(sys.argv[4]))
