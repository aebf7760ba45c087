"""Binds the address that the server listens on, before the model is loaded."""

from __future__ import annotations

import errno
import ipaddress
import socket

from embedding_expansion.errors import InvalidInput


def bind(host: str, port: int) -> socket.socket:
    """Binds a socket to an address. Clients cannot connect before `listen`.

    Raises:
        InvalidInput: the port is taken or forbidden, or the host does not belong to this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise InvalidInput(f"--host {host!r} is not a known host name or address; pass 127.0.0.1 or 0.0.0.0") from None
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
    except OSError as error:
        held.close()
        raise _refused(error, host, port) from None
    return held


def listen(held: socket.socket, host: str) -> None:
    """Starts listening. Clients can connect now, and wait until the server accepts them.

    Raises:
        InvalidInput: another program listens on the same address already.
    """
    try:
        held.listen()
    except OSError as error:
        raise _refused(error, host, held.getsockname()[1]) from None


def _refused(error: OSError, host: str, port: int) -> InvalidInput:
    if error.errno == errno.EADDRINUSE:
        sentence = f"port {port} of {host} is used by another program; stop that program, or pass another --port"
    elif error.errno == errno.EACCES:
        sentence = f"port {port} needs privileges that this user does not have; pass a --port of 1024 or more"
    else:
        sentence = f"{host} is not an address of this machine ({error.strerror}); pass 127.0.0.1 or 0.0.0.0"
    return InvalidInput(sentence)


def is_loopback(held: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(held.getsockname()[0].partition("%")[0]).is_loopback


def url(host: str, held: socket.socket) -> str:
    """The URL to open in a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{held.getsockname()[1]}"
