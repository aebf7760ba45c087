"""A few of the faults of benchmarks/reliability/server.py, against a server of the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks" / "reliability"))

import server as faults


@pytest.fixture(scope="module")
def attacked(place: Path) -> Iterator[faults.Server]:
    with faults.running(place) as server:
        yield server


@pytest.mark.parametrize("kind", [kind for kind in faults.UPLOADS if "many scans" not in kind and "49" not in kind])
def test_after_a_bad_upload_the_next_search_is_answered(kind: str, attacked: faults.Server) -> None:
    _, tried, survived = faults.uploads(attacked, kind, 2, 7)
    assert tried == survived >= 1


def test_after_half_a_request_what_is_no_http_or_a_killed_decoder_as_well(attacked: faults.Server) -> None:
    for fault in (faults.halves, faults.no_http, faults.killed_decoders):
        _, tried, survived = fault(attacked, 3, 7)
        assert tried == survived == 3


def test_half_sent_headers_on_more_connections_than_there_may_be(attacked: faults.Server) -> None:
    _, tried, survived = faults.half_headers(attacked, 1, 7)
    assert tried == survived == 1
