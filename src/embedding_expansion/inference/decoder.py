"""Images from strangers become what the model sees in a process of its own, which may be ended at any moment.

As a program it is given a `Task` and one end of a pair of sockets. It reads the bytes of an image and answers with a
verdict, again and again until nobody is there to ask. It knows neither the model nor the index, needs no torch, has a
bounded memory and cannot write a file.
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

from PIL import Image, UnidentifiedImageError

from embedding_expansion.data.decoding import to_rgb
from embedding_expansion.data.preprocessing import Preprocessing, check_shape
from embedding_expansion.data.scans import has_more_scans
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.lifeline import end_with

#: An image of more pixels is large: it may take seconds, and a JPEG is then decoded at a reduced size.
LARGE = 16_000_000
#: A JPEG of more scans takes as long as a large image; a progressive one has some ten.
MANY_SCANS = 20
#: A large JPEG is still so many times as long and as wide as the model needs after it was decoded at a reduced size.
KEPT = 4

_HEAD = struct.Struct("<BQ")  # a verdict, and how many bytes follow


class Verdict(IntEnum):
    """What became of an image; all but `SQUARE` and `READY` come with a sentence."""

    READY = 0  # the process has started
    SQUARE = 1  # its pixels follow
    SLOW = 2  # it is large, and was left to a process that may take longer
    UNKNOWN = 3  # it is of no format that is allowed
    TOO_LARGE = 4
    UNUSABLE = 5  # it is broken, too thin, ...


@dataclass(frozen=True)
class Task:
    """What such a process does.

    Attributes:
        preprocessing: what is made of the pixels.
        formats: that are allowed, as Pillow names them.
        max_pixels: of an image.
        leaves_slow: whether it leaves alone what is large or has many scans.
        memory: bytes that it may take beyond those that it starts with.
        niceness: added to that of the process which starts it.
    """

    preprocessing: Preprocessing
    formats: tuple[str, ...]
    max_pixels: int
    leaves_slow: bool
    memory: int
    niceness: int = 0

    def to_json(self) -> str:
        """As an argument of the program."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> Task:
        """What `to_json` wrote."""
        read = json.loads(text)
        return cls(
            **read | {"preprocessing": Preprocessing(**read["preprocessing"]), "formats": tuple(read["formats"])}
        )


def judge(content: bytes, task: Task) -> tuple[Verdict, bytes]:
    """The verdict on the bytes of an image, with its square, (size, size, 3) of uint8, or a sentence."""
    try:
        with Image.open(io.BytesIO(content), formats=_that_pillow_has(task.formats)) as image:
            return _judge_opened(image, task)
    except UnidentifiedImageError:
        *some, last = task.formats
        known = f"{', '.join(some)} or {last}" if some else last
        return Verdict.UNKNOWN, f"this is no image of a format that is taken here; send {known}".encode()
    except (MemoryError, Image.DecompressionBombError):
        return Verdict.TOO_LARGE, b"the image takes too much memory to decode; send a smaller one"
    except InvalidInput as error:  # too thin
        return Verdict.UNUSABLE, f"{error}; crop the image".replace("it is", "the image is", 1).encode()
    except Exception as error:  # whatever a decoder makes of a broken file
        said = f"the image cannot be decoded ({error}); save it again, or send another"
        return Verdict.UNUSABLE, said.encode(errors="replace")


def _judge_opened(image: Image.Image, task: Task) -> tuple[Verdict, bytes]:
    """All that the header tells comes first; only then the image is decoded."""
    width, height = image.size
    pixels = width * height
    most = min(task.max_pixels, Image.MAX_IMAGE_PIXELS or task.max_pixels)
    if pixels > most:
        said = f"the image has {pixels:,} pixels, more than the {most:,} that are decoded; send a smaller one"
        return Verdict.TOO_LARGE, said.encode()
    check_shape(height, width)
    if task.leaves_slow and (pixels > LARGE or has_more_scans(image, MANY_SCANS)):
        return Verdict.SLOW, b""
    if pixels > LARGE:
        reduce(image, task.preprocessing)
    return Verdict.SQUARE, task.preprocessing(to_rgb(image)).tobytes()


def reduce(image: Image.Image, preprocessing: Preprocessing) -> None:
    """Has an opened JPEG decoded at 1/2, 1/4 or 1/8 of its size, at least `KEPT` times what the model needs."""
    needed = KEPT * (preprocessing.short_side or preprocessing.size)
    image.draft(image.mode, (needed, needed))  # nothing for other formats


def _that_pillow_has(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Without AVIF where Pillow was built without it."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def send(connection: socket.socket, verdict: Verdict, content: bytes, deadline: float | None = None) -> None:
    """Sends a message.

    Args:
        connection: to the other process.
        verdict: of the message; `READY` where an image is sent.
        content: of the message.
        deadline: by `time.monotonic`; None waits for ever.

    Raises:
        TimeoutError, OSError: it cannot be sent in time, or at all.
    """
    for part in (_HEAD.pack(verdict, len(content)), content):
        _set_timeout(connection, deadline)
        connection.sendall(part)


def receive(connection: socket.socket, most: int, deadline: float | None = None) -> tuple[Verdict, bytes]:
    """The next message; the arguments are those of `send`, and the most bytes that are taken.

    Raises:
        TimeoutError, OSError, EOFError: there is none, or a longer one.
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
    """Bounds what this process may still take: memory, no file, no dump of its memory.

    Args:
        memory: bytes beyond those that it has.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + memory
    for what, bound in ((resource.RLIMIT_AS, most), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (bound, bound))


def main(parent: int, descriptor: int, most: int, task: Task) -> None:
    """The program.

    Args:
        parent: the process that started it.
        descriptor: of its end of the pair of sockets.
        most: bytes of an image.
        task: what it does.
    """
    end_with(parent)
    os.nice(task.niceness)
    warnings.simplefilter("ignore")
    _that_pillow_has(task.formats)  # loads the plugins
    if "AVIF" in Image.OPEN:
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    confine(task.memory)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError, OSError):
        send(connection, Verdict.READY, b"")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libraries of C tell there what they dislike
        while True:
            _, content = receive(connection, most)
            send(connection, *judge(content, task))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Task.of_json(sys.argv[4]))
