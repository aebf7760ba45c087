"""What a server is told when it is started, and what is refused before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from embedding_expansion.errors import InvalidInput

#: A token that guards an address which others can reach has at least so many characters.
TOKEN_LENGTH = 16


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
        timeout: seconds for receiving an image, and again for the model's answer.
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
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "queue", "max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"--{name} is {getattr(self, name)}; pass 1 or more")
        if not 0 <= self.port <= 65_535:
            raise InvalidInput(f"--port is {self.port}; pass 1 to 65535, or 0 for a free one")
        if not 0 < self.timeout <= 3600:
            raise InvalidInput(f"--timeout is {self.timeout:g}; pass seconds, more than 0 and at most 3600")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InvalidInput("the token is empty or holds other than printable ASCII characters; pass such a text")

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
