"""Reads the body of a request within the limits on its size and duration: an image, or JSON."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError

from embedding_expansion.app.serve.settings import Settings

#: The longest pause in an upload, in seconds.
STALL = 5.0
#: The most bytes of a request in JSON: vectors of several images, or the ids of a selection.
MOST_JSON = 4_000_000

Body = TypeVar("Body", bound=BaseModel)


async def read_image(request: Request, settings: Settings) -> bytes:
    """Reads the body of a request into memory.

    A multipart form is refused, because its parser would write large parts to a temporary file.

    Raises:
        HTTPException: 400 for an empty body, 408 for a slow upload, 413 for a large one (as soon as its size is known),
            415 for a form.
    """
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/"):
        raise HTTPException(
            415, "the body is a form; send only the bytes of the image file, as curl --data-binary does"
        )
    content = await _read(request, "image", settings.max_bytes, settings.timeout)
    if not content:
        raise HTTPException(400, "the body is empty; send the bytes of an image file")
    return content


async def read_json(request: Request, kind: type[Body], settings: Settings) -> Body:
    """Reads a body in JSON.

    Raises:
        HTTPException: 408 for a slow body, 413 for a large one, 422 for one that is not as `kind` describes.
    """
    content = await _read(request, "request", MOST_JSON, settings.timeout)
    try:
        return kind.model_validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise HTTPException(422, f"{where} is wrong: {' '.join(first['msg'].split())}") from None


async def _read(request: Request, what: str, most: int, seconds: float) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(what, most)
    pieces, size = [], 0
    now = asyncio.get_running_loop().time
    end = now() + seconds
    try:
        async with asyncio.timeout_at(min(end, now() + STALL)) as patience:
            async for piece in request.stream():
                patience.reschedule(min(end, now() + STALL))
                size += len(piece)
                if size > most:
                    raise _too_large(what, most)
                pieces.append(piece)
    except TimeoutError:
        if now() < end:
            raise HTTPException(408, f"no bytes of the {what} arrived for {STALL:g} seconds; try again") from None
        raise HTTPException(
            408, f"the {what} was not received within {seconds:g} seconds; send a smaller one, or try again"
        ) from None
    return b"".join(pieces)


def _too_large(what: str, most: int) -> HTTPException:
    return HTTPException(413, f"the {what} has more than {most:,} bytes; send a smaller one")
