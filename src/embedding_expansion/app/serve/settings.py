"""The options of the server, validated before anything heavy is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from embedding_expansion.errors import InvalidInput

#: The shortest token, in characters, for a server that other machines can reach.
TOKEN_LENGTH = 16
#: Formats of browsers, phones and screenshots, and all formats that can be decoded.
BROWSER_FORMATS = ("jpeg", "png", "webp", "gif", "avif")
FORMATS = (*BROWSER_FORMATS, "bmp", "tiff", "ppm")
#: The default of `per_address` for a server that other machines can reach.
PER_ADDRESS = 32


_ROOT_PATH = re.compile(r"(/(?!\.\.?(/|$))[\w.~-]+)*", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """The options of `embex serve`.

    Attributes:
        index: the index: a folder or a postgresql:// URL.
        host, port: the address to listen on; port 0 picks a free port.
        token: the token that every request must send; None for none.
        device: the device of the model.
        batch_size: the maximum number of images per batch of the model.
        queue: the maximum number of images that are being received or are waiting for the model.
        max_bytes: the maximum size of an upload in bytes.
        max_pixels: the maximum number of pixels of an image.
        formats: accepted image formats, from `FORMATS`.
        timeout: seconds for the upload of an image, and again for its embedding.
        decode_timeout: seconds for decoding an image.
        per_address: the maximum number of concurrent connections of one address, 0 for no limit; None means
            `PER_ADDRESS` if other machines can reach the server, and 0 otherwise.
        root_path: the prefix under which a proxy serves the application, such as "/images"; "" for none.
        beside: a second index, of another model over the same images, that the page shows beside the first; None for
            none.
        originals: whether the server hands out the original files of its items.
        edit: whether clients may add, relabel and remove images; it needs a token.
        uploads: the folder for the files of added images; None means `uploads` inside the index.
    """

    index: str
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    device: str = "auto"
    batch_size: int = 32
    queue: int = 64
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    formats: tuple[str, ...] = BROWSER_FORMATS
    timeout: float = 30.0
    decode_timeout: float = 10.0
    per_address: int | None = None
    root_path: str = ""
    beside: str | None = None
    originals: bool = True
    edit: bool = False
    uploads: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"--{name} is {getattr(self, name)}; pass 1 or more")
        if not 0 <= self.port <= 65_535:
            raise InvalidInput(f"--port is {self.port}; pass 1 to 65535, or 0 for a free port")
        for name in ("timeout", "decode_timeout"):
            if not 0 < getattr(self, name) <= 3600:
                given = getattr(self, name)
                raise InvalidInput(f"--{name} is {given:g}; pass seconds greater than 0 and at most 3600")
        if self.per_address is not None and self.per_address < 0:
            raise InvalidInput(f"--per_address is {self.per_address}; pass 1 or more, or 0 for no limit")
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise InvalidInput(f"--formats is {','.join(self.formats)!r}; pass one or more of {','.join(FORMATS)}")
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise InvalidInput(f"--root_path is {self.root_path!r}; pass a path such as /images")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InvalidInput(
                "the token is empty or has characters other than printable ASCII; pass printable ASCII characters"
            )

        if self.edit and self.token is None:
            raise InvalidInput("--edit lets clients change the index; set EMBEX_TOKEN (or --token), or omit --edit")
        if self.edit and self.uploads is None and "://" in self.index:
            raise InvalidInput("--edit needs a folder for the files of added images; pass --uploads FOLDER")

    @property
    def uploads_folder(self) -> Path:
        """The folder for the files of added images."""
        return Path(self.uploads).absolute() if self.uploads else Path(self.index).absolute() / "uploads"

    def of_one_address(self, is_loopback: bool) -> int:
        """The effective `per_address`. It is 0 on loopback, where all clients share one address."""
        if self.per_address is None:
            return 0 if is_loopback else PER_ADDRESS
        return self.per_address

    def check_reach(self, is_loopback: bool) -> None:
        """Requires a long token if other machines can reach the server.

        Raises:
            InvalidInput: the token is missing or too short.
        """
        if is_loopback:
            return
        if self.token is None:
            raise InvalidInput(
                f"other machines can reach --host {self.host}; set EMBEX_TOKEN (or --token) to a long random text that "
                "clients must send, or omit --host"
            )
        if len(self.token) < TOKEN_LENGTH:
            raise InvalidInput(
                f"the token has {len(self.token)} characters, but other machines can reach --host {self.host}; pass "
                f"{TOKEN_LENGTH} or more random characters"
            )
