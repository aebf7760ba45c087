"""The address that a server listens on: resolved, held and named, before the model is loaded."""

from __future__ import annotations

import errno
import ipaddress
import socket

from embedding_expansion.errors import InvalidInput


def bind(host: str, port: int) -> socket.socket:
    """Takes an address; nobody can connect before it is listened on.

    Raises:
        InvalidInput: the port is taken or forbidden, or the host is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise InvalidInput(f"--host is {host!r}, which is no name or address; pass 127.0.0.1 or 0.0.0.0") from None
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
    except OSError as error:
        held.close()
        raise _refused(error, host, port) from None
    return held


def listen(held: socket.socket, host: str) -> None:
    """Lets clients connect; they wait until they are accepted.

    Raises:
        InvalidInput: another program, which had bound it as well, was first.
    """
    try:
        held.listen()
    except OSError as error:
        raise _refused(error, host, held.getsockname()[1]) from None


def _refused(error: OSError, host: str, port: int) -> InvalidInput:
    if error.errno == errno.EADDRINUSE:
        said = f"port {port} of {host} is taken by another program; end it, or pass another --port"
    elif error.errno == errno.EACCES:
        said = f"port {port} is not allowed to this user; pass a --port of 1024 or more"
    else:
        said = f"{host} is no address of this machine ({error.strerror}); pass 127.0.0.1 or 0.0.0.0"
    return InvalidInput(said)


def is_loopback(held: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(held.getsockname()[0].partition("%")[0]).is_loopback


def url(host: str, held: socket.socket) -> str:
    """Where a browser finds it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{held.getsockname()[1]}"
