"""Connections: how many there may be, who gives way to a new one, and how long headers may take to come.

uvicorn counts connections, however little they have sent, and waits for ever for the end of their headers. Here those
that have no request in progress give way to new ones, the longest waiting first, so that they shut nobody out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds in which a client that is refused may read why.
LINGER = 1.0
#: Bytes of further requests that may be sent before an answer has come; uvicorn would take any number.
AHEAD = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What connections may do.

    Attributes:
        connections: at once.
        per_address: at once from one address, or one network of 64 bits of IPv6; 0 for any number.
        headers: seconds from the connection, or from the first byte of a later request, to the end of its headers.
        reading: seconds that a client may leave an answer unread that does not fit into the buffers.
    """

    connections: int = 512
    per_address: int = 0
    headers: float = 10.0
    reading: float = 30.0


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol of HTTP/1.1 within bounds.

    Args:
        bounds: of all connections of the server.
        given: by uvicorn, to its own protocol.
    """

    def __init__(self, *, bounds: Bounds, **given: Any) -> None:
        super().__init__(**given)
        self._bounds, self._address = bounds, ""
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._since, self._is_refused = self.loop.time(), False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room for the connection, or refuses it."""
        super().connection_made(transport)
        self._address = _network(self.client[0]) if self.client else ""
        others = [one for one in self.connections if one is not self and isinstance(one, BoundedProtocol)]
        same = [one for one in others if one._address == self._address]
        if not _fits(others, self._bounds.connections) or not _fits(same, self._bounds.per_address):
            self._refuse(503, "too many connections are open; try again in a moment")
        else:
            self._watch_headers()

    def data_received(self, data: bytes) -> None:
        """Takes what has come, and notes whether a request has begun or its headers are complete."""
        if self._is_refused:
            return
        super().data_received(data)
        if len(self.conn.trailing_data[0]) > AHEAD:
            self.transport.abort()
        self._watch_headers()

    def on_response_complete(self) -> None:
        """Notes since when there is nothing to do."""
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        super().connection_lost(exc)
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """The client does not read its answer: not for long."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._bounds.reading, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether a request is in progress; before the end of its headers it has not begun."""
        return self.cycle is not None and not self.cycle.response_complete

    def give_way(self) -> None:
        """Ends the connection, which has no request in progress, for another one."""
        if self.cycle is None:
            self._refuse(408, "the headers had not come when others needed the connection; try again")
        else:
            self.connections.discard(self)
            self.transport.abort()

    def _watch_headers(self) -> None:
        """Headers are waited for from their first byte on; how long nothing comes at all uvicorn watches itself."""
        waits = not self.is_busy and not self.transport.is_closing()
        if waits and self._late is None:
            said = f"the headers did not come within {self._bounds.headers:g} seconds; try again"
            self._late = self.loop.call_later(self._bounds.headers, self._refuse, 408, said)
        elif not waits and self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: int, detail: str) -> None:
        """Says why, and ends the connection; what the client still sends is read for a moment, and thrown away.

        A connection that is closed with bytes unread is reset, and the client would see that instead of the answer.
        """
        self._is_refused = True
        self.connections.discard(self)
        if self.transport.is_closing():
            return
        body = json.dumps({"detail": detail}).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            head += "Retry-After: 1\r\n"
        self.transport.write(f"{head}\r\n".encode() + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.abort)


def _fits(others: Iterable[BoundedProtocol], most: int) -> bool:
    """Whether one more connection may be there, after the idle one that has waited longest has given way."""
    open_ones = list(others)
    if not most or len(open_ones) < most:
        return True
    idle = min((one for one in open_ones if not one.is_busy), key=lambda one: one._since, default=None)
    if idle is not None:
        idle.give_way()
    return idle is not None


def _network(address: str) -> str:
    """What counts as one address: of IPv6 the first half, since whoever has one has all of the second half."""
    known = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(known, ipaddress.IPv6Address):
        known = known.ipv4_mapped or ipaddress.IPv6Address(int(known) >> 64 << 64)
    return str(known)
