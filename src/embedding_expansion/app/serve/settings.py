"""What a server is told when it is started, and what is refused before anything heavy is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from embedding_expansion.errors import InvalidInput

#: A token that guards an address which others can reach has at least so many characters.
TOKEN_LENGTH = 16
#: What browsers, telephones and screenshots make; and what else there is a decoder for.
BROWSER_FORMATS = ("jpeg", "png", "webp", "gif", "avif")
FORMATS = (*BROWSER_FORMATS, "bmp", "tiff", "ppm")
#: Requests of one address at once where other machines reach the server and nothing else is said.
PER_ADDRESS = 32


_ROOT_PATH = re.compile(r"(/(?!\.\.?(/|$))[\w.~-]+)*", re.ASCII)


@dataclass(frozen=True)
class Settings:
    """The options of `embex serve`.

    Attributes:
        index: a folder, or a URL of PostgreSQL.
        host, port: where it listens; port 0 takes a free one.
        token: what every request must bring along; None asks for none.
        device: of the model.
        batch_size: images that go through the model at once.
        queue: images that are being received or wait for the model; the next one is refused.
        max_bytes: of an upload.
        max_pixels: of an image.
        formats: of images, some of `FORMATS`.
        timeout: seconds for receiving an image, and again for the model's answer.
        decode_timeout: seconds that the decoding of an image may take.
        per_address: requests of one address at once, 0 for any number; None for `PER_ADDRESS` where other machines
            reach the server, else 0.
        root_path: the prefix under which a proxy shows the server, such as "/images"; "" for none.
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

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"--{name} is {getattr(self, name)}; pass 1 or more")
        if not 0 <= self.port <= 65_535:
            raise InvalidInput(f"--port is {self.port}; pass 1 to 65535, or 0 for a free one")
        for name in ("timeout", "decode_timeout"):
            if not 0 < getattr(self, name) <= 3600:
                given = getattr(self, name)
                raise InvalidInput(f"--{name} is {given:g}; pass seconds, more than 0 and at most 3600")
        if self.per_address is not None and self.per_address < 0:
            raise InvalidInput(f"--per_address is {self.per_address}; pass 1 or more, or 0 for no limit")
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise InvalidInput(f"--formats is {','.join(self.formats)!r}; pass some of {','.join(FORMATS)}")
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise InvalidInput(f"--root_path is {self.root_path!r}; pass a path such as /images")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InvalidInput("the token is empty or holds other than printable ASCII characters; pass such a text")

    def of_one_address(self, is_loopback: bool) -> int:
        """Requests of one address at once, 0 for any number: on this machine all clients have the same address."""
        if self.per_address is None:
            return 0 if is_loopback else PER_ADDRESS
        return self.per_address

    def check_reach(self, is_loopback: bool) -> None:
        """Refuses an address that other machines can reach without a token that nobody guesses.

        Raises:
            InvalidInput: there is none, or a short one.
        """
        if is_loopback:
            return
        if self.token is None:
            raise InvalidInput(
                f"--host {self.host} can be reached from other machines; set EMBEX_TOKEN (or --token) to a long random "
                "text that they must know, or leave --host out"
            )
        if len(self.token) < TOKEN_LENGTH:
            raise InvalidInput(
                f"the token has {len(self.token)} characters, and --host {self.host} can be reached from other "
                f"machines; take {TOKEN_LENGTH} random ones or more"
            )
