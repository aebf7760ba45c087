"""The address of an index in PostgreSQL, and messages about it that never show its password."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from embedding_expansion.errors import InvalidInput

NAME = re.compile(r"[a-z0-9_]{1,40}")


@dataclass(frozen=True)
class Address:
    """A server and an index on it.

    Attributes:
        options: the connection options for libpq, including the password.
        index: the name of the index; its tables are in the schema `embex_NAME`.
        shown: the URL without the password, for messages.
    """

    options: dict[str, str] = field(repr=False)
    index: str
    shown: str

    @property
    def schema(self) -> str:
        """The schema that holds its tables."""
        return f"embex_{self.index}"

    def without_password(self, text: object) -> str:
        """Puts a message on one line and replaces the password in it by ***."""
        line = " ".join(str(text).split())
        password = self.options.get("password")
        for form in {password, quote(password, safe="")} if password else ():
            line = line.replace(form, "***")
        return line


def parse(url: str) -> Address:
    """Reads `postgresql://user:password@host:port/database?index=NAME&sslmode=...`.

    All other options after the question mark are passed to libpq.

    Raises:
        InvalidInput: the URL cannot be parsed, or the name of the index has other characters than a-z, 0-9 and _.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        # Not with Python's message, which repeats parts of the URL and may show the password.
        raise InvalidInput(
            "the URL of the index cannot be read; write postgresql://user:password@host:port/database?index=NAME, "
            "with special characters in the password as %XX"
        ) from None
    name = query.pop("index", "default")
    if not NAME.fullmatch(name):
        raise InvalidInput(f"index is {name!r}; pass a name of up to 40 characters from a-z, 0-9 and _")
    given = {
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "host": unquote(parts.hostname or ""),
        "port": "" if port is None else str(port),
        "dbname": unquote(parts.path.removeprefix("/")),
    }
    options = {key: value for key, value in (given | query).items() if value}
    return Address(options, name, _shown(options, name))


def _shown(options: dict[str, str], name: str) -> str:
    secret = ":***" if "password" in options else ""
    user = f"{options['user']}{secret}@" if "user" in options else ""
    port = f":{options['port']}" if "port" in options else ""
    host = options.get("host", "")
    socket = f"host={host}&" if host.startswith("/") else ""
    return f"postgresql://{user}{'' if socket else host}{port}/{options.get('dbname', '')}?{socket}index={name}"
