"""Limits of the server: exactly at one, and just beyond it. `test_limits.py` has them over HTTP."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import HTTPException, Request

from embedding_expansion.app.serve.limits import read_image
from embedding_expansion.app.serve.settings import PER_ADDRESS, TOKEN_LENGTH, Settings
from embedding_expansion.errors import InvalidInput

LEAST = 5e-324


@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [
        *((name, [1], [0]) for name in ("batch_size", "queue", "max_bytes", "max_pixels")),
        ("port", [0, 1, 65_535], [-1, 65_536]),
        *((name, [LEAST, 3600.0], [0.0, math.nextafter(3600, 3601)]) for name in ("timeout", "decode_timeout")),
        ("per_address", [0, 1], [-1]),
    ],
)
def test_each_end_of_a_range_is_allowed_and_what_is_beyond_it_is_not(
    name: str, within: list[float], beyond: list[float]
) -> None:
    for value in within:
        assert getattr(Settings("birds", **{name: value}), name) == value  # type: ignore[arg-type]
    for value in beyond:
        with pytest.raises(InvalidInput, match=f"--{name} is"):
            Settings("birds", **{name: value})  # type: ignore[arg-type]


def test_a_token_for_other_machines_has_16_characters_or_more() -> None:
    assert (TOKEN_LENGTH, PER_ADDRESS) == (16, 32)
    Settings("birds", token="x" * 16).check_reach(is_loopback=False)
    short = Settings("birds", token="x" * 15)
    short.check_reach(is_loopback=True)
    with pytest.raises(InvalidInput, match="the token has 15 characters"):
        short.check_reach(is_loopback=False)


def upload(pieces: list[bytes], declared: int | None) -> Request:
    """A request whose body arrives in pieces, and which says its size or not."""
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    headers = [] if declared is None else [(b"content-length", str(declared).encode())]
    given: Callable[[], Awaitable[dict[str, Any]]] = receive
    return Request({"type": "http", "method": "POST", "headers": headers}, given)  # type: ignore[arg-type]


@pytest.mark.parametrize("pieces", [[b"12345"], [b"123", b"45"], [b"", b"1234", b"5", b""]])
def test_an_upload_may_have_just_as_many_bytes_as_are_allowed(pieces: list[bytes]) -> None:
    for declared in (5, None):
        for most, taken in ((6, True), (5, True), (4, False)):
            read = read_image(upload(pieces, declared), Settings("birds", max_bytes=most))
            if taken:
                assert asyncio.run(read) == b"12345"
            else:
                with pytest.raises(HTTPException, match="more than 4 bytes") as refused:
                    asyncio.run(read)
                assert refused.value.status_code == 413


def test_one_byte_is_an_upload_and_none_is_not() -> None:
    assert asyncio.run(read_image(upload([b"", b"1"], None), Settings("birds", max_bytes=1))) == b"1"
    with pytest.raises(HTTPException, match="the body is empty") as refused:
        asyncio.run(read_image(upload([b"", b""], None), Settings("birds")))
    assert refused.value.status_code == 400
