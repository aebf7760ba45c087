"""Limits on connections: how many, how long headers may take, and which connection is closed for a new one.

uvicorn counts every connection, even an idle one, and waits for its headers forever. Here idle connections are closed
when a new one needs the room, the longest idle first, so that they cannot lock others out.
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

#: Seconds that a refused client has to read the reason.
LINGER = 1.0
#: Bytes of pipelined requests that a client may send before the response; uvicorn itself has no limit.
PIPELINED = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """The limits.

    Attributes:
        connections: the maximum number of open connections.
        per_address: the maximum number of open connections of one IPv4 address or one /64 network of IPv6; 0 for no
            limit.
        headers: seconds for the headers of a request, from the connection or from the first byte of a later request.
        reading: seconds that a client may stop reading a response which does not fit into the buffers.
    """

    connections: int = 512
    per_address: int = 0
    headers: float = 10.0
    reading: float = 30.0


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with limits.

    Args:
        bounds: the limits, shared by all connections of the server.
        given: the arguments of uvicorn's protocol.
    """

    def __init__(self, *, bounds: Bounds, **given: Any) -> None:
        super().__init__(**given)
        self._bounds, self._address = bounds, ""
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._since, self._is_refused = self.loop.time(), False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts the connection if there is room for it, and refuses it otherwise."""
        super().connection_made(transport)
        self._address = _network(self.client[0]) if self.client else ""
        others = [one for one in self.connections if one is not self and isinstance(one, BoundedProtocol)]
        same = [one for one in others if one._address == self._address]
        if not _fits(others, self._bounds.connections) or not _fits(same, self._bounds.per_address):
            self._refuse(503, "too many connections are open; try again in a moment")
        else:
            self._watch_headers()

    def data_received(self, data: bytes) -> None:
        """Passes data on to uvicorn, and starts or stops the timer for the headers."""
        if self._is_refused:
            return
        super().data_received(data)
        if len(self.conn.trailing_data[0]) > PIPELINED:
            self.transport.abort()
        self._watch_headers()

    def on_response_complete(self) -> None:
        """Records when the connection became idle."""
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timers of the connection."""
        super().connection_lost(exc)
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Starts the timer for a client that does not read its response."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._bounds.reading, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancels that timer: the client reads again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether a request is in progress. A request starts when its headers are complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def give_way(self) -> None:
        """Closes this idle connection to make room for another one."""
        if self.cycle is None:
            self._refuse(408, "the server needed the connection before the headers were complete; try again")
        else:
            self.connections.discard(self)
            self.transport.abort()

    def _watch_headers(self) -> None:
        """Starts or stops the timer for the headers. uvicorn itself closes connections that send nothing at all."""
        waits = not self.is_busy and not self.transport.is_closing()
        if waits and self._late is None:
            detail = f"the headers were not complete within {self._bounds.headers:g} seconds; try again"
            self._late = self.loop.call_later(self._bounds.headers, self._refuse, 408, detail)
        elif not waits and self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: int, detail: str) -> None:
        """Sends the reason and closes the connection a moment later. Whatever the client sends meanwhile is discarded.

        Closing a connection with unread bytes resets it, and the client would see the reset instead of the response.
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
    """Whether there is room for one more connection, after closing the longest idle one if necessary."""
    open_ones = list(others)
    if not most or len(open_ones) < most:
        return True
    idle = min((one for one in open_ones if not one.is_busy), key=lambda one: one._since, default=None)
    if idle is not None:
        idle.give_way()
    return idle is not None


def _network(address: str) -> str:
    """What counts as one address: for IPv6 the /64 network, because one client usually owns all of it."""
    known = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(known, ipaddress.IPv6Address):
        known = known.ipv4_mapped or ipaddress.IPv6Address(int(known) >> 64 << 64)
    return str(known)
