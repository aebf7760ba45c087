"""Clients that take their time: half-sent headers, slow bodies, answers that nobody reads, too many at once."""

from __future__ import annotations

import http.client
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.serve.conftest import Running, picture, serving, wait_for
from embedding_expansion.app.serve import limits
from embedding_expansion.app.serve.connections import Bounds, _network
from embedding_expansion.app.serve.service import Service
from embedding_expansion.app.serve.settings import PER_ADDRESS, Settings

HALF = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "
ASK = b"GET /main.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextmanager
def connected(server: Running, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    parts = urlsplit(server.url)
    address = (str(parts.hostname), parts.port or 80)
    with socket.create_connection(address, timeout=60, source_address=(source, 0)) as connection:
        yield connection


def answered(connection: socket.socket) -> tuple[int, dict[str, str]]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read())


def is_ended(connection: socket.socket) -> bool:
    """Whether the server has ended it, at once or within the time that a test has."""
    try:
        return connection.recv(65536) == b""
    except ConnectionResetError:
        return True


def test_half_sent_headers_from_more_connections_than_there_may_be_shut_nobody_out(place: Path) -> None:
    with serving(place, bounds=Bounds(connections=20, headers=60.0)) as server, ExitStack() as stack:
        held = [stack.enter_context(connected(server)) for _ in range(50)]
        for one in held:
            one.sendall(HALF)
        assert server.get("/healthz").status_code == 200
        assert server.search(picture(0)).status_code == 200
        said = [answered(one) for one in held if select.select([one], [], [], 0)[0]]
        assert len(said) >= 30
        assert {status for status, _ in said} == {408}
        assert {answer["detail"] for _, answer in said} == {
            "the server needed the connection before the headers were complete; try again"
        }


def test_headers_that_never_end_are_told_so_and_those_that_do_are_answered(place: Path) -> None:
    with serving(place, bounds=Bounds(headers=0.5)) as server:
        with connected(server) as trickling, connected(server) as silent:
            trickling.sendall(HALF)
            assert answered(trickling) == (
                408,
                {"detail": "the headers were not complete within 0.5 seconds; try again"},
            )
            assert is_ended(trickling)
            assert answered(silent)[0] == 408
        with connected(server) as second:
            second.sendall(HALF + b"no more\r\n\r\n")
            assert answered(second) == (200, {"status": "ok"})
            second.sendall(HALF)  # of its second request
            assert answered(second)[0] == 408


def test_headers_in_pieces_are_answered_when_they_are_complete(place: Path) -> None:
    with serving(place) as server, connected(server) as connection:
        for _ in range(2):
            for byte in HALF + b"x\r\n\r\n":
                connection.sendall(bytes([byte]))
            assert answered(connection) == (200, {"status": "ok"})


def test_requests_in_progress_do_not_give_way(place: Path) -> None:
    may_go, begun = threading.Event(), list[None]()

    def slow_down(service: Service) -> None:
        about = service.about
        service.about = lambda: (begun.append(None), may_go.wait(60), about())[2]  # type: ignore[method-assign]

    ask = HALF.replace(b"/healthz", b"/api/about") + b"x\r\n\r\n"
    with serving(place, prepare=slow_down, bounds=Bounds(connections=2)) as server, ExitStack() as stack:
        working = [stack.enter_context(connected(server)) for _ in range(2)]
        for one in working:
            one.sendall(ask)
        wait_for(lambda: len(begun) == 2)
        with connected(server) as third:
            third.sendall(ask)
            assert answered(third) == (503, {"detail": "too many connections are open; try again in a moment"})
        may_go.set()
        assert [answered(one)[0] for one in working] == [200, 200]
        assert server.get("/healthz").status_code == 200  # the two are idle now, and one of them gives way


def test_one_address_takes_no_more_than_its_part_and_others_are_answered(place: Path) -> None:
    upload = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
    with serving(place, bounds=Bounds(per_address=3)) as server, ExitStack() as stack:
        held = [stack.enter_context(connected(server, "127.0.0.2")) for _ in range(3)]
        for one in held:
            one.sendall(upload)  # and no body
        wait_for(lambda: server.service.batcher.taken == 3)
        with connected(server, "127.0.0.2") as fourth:
            assert answered(fourth)[0] == 503
        with connected(server, "127.0.0.3") as other:
            other.sendall(HALF + b"x\r\n\r\n")
            assert answered(other) == (200, {"status": "ok"})


def test_a_body_that_stalls_is_given_up_before_its_whole_time_is_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STALL", 0.5)
    with serving(place, timeout=600.0) as server, connected(server) as connection:
        connection.sendall(b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx")
        status, said = answered(connection)
        assert (status, said["detail"]) == (408, "no bytes of the image arrived for 0.5 seconds; try again")
        wait_for(lambda: server.service.batcher.taken == 0)


def test_a_client_that_does_not_read_its_answers_is_given_up(place: Path) -> None:
    with serving(place, bounds=Bounds(reading=0.5)) as server, connected(server) as connection:
        connection.sendall(10_000 * ASK)  # the answers are 80 MB, more than any buffer between the two holds
        wait_for(lambda: server.connections() == 1)
        wait_for(lambda: server.connections() == 0)


def test_a_client_that_sends_requests_without_end_is_given_up(place: Path) -> None:
    with serving(place) as server, connected(server) as connection:
        with pytest.raises(ConnectionError):
            connection.sendall(2_000_000 * ASK)
        assert server.get("/healthz").status_code == 200


def test_an_address_is_a_network_where_one_may_have_many() -> None:
    assert _network("192.0.2.7") == _network("::ffff:192.0.2.7") != _network("192.0.2.8")
    assert _network("2001:db8:1:2::3") == _network("2001:db8:1:2:ffff::9") != _network("2001:db8:1:3::3")
    assert _network("fe80::1%eth0") == _network("fe80::2%eth1")


def test_the_limit_of_an_address_holds_where_others_reach_the_server_unless_it_is_said() -> None:
    assert [Settings("x").of_one_address(loopback) for loopback in (True, False)] == [0, PER_ADDRESS]
    assert [Settings("x", per_address=5).of_one_address(loopback) for loopback in (True, False)] == [5, 5]
    assert Settings("x", per_address=0).of_one_address(False) == 0
