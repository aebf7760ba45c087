"""Reads an upload within the limits on its size and duration."""

from __future__ import annotations

import asyncio

from fastapi import HTTPException, Request

from embedding_expansion.app.serve.settings import Settings

#: The longest pause in an upload, in seconds.
STALL = 5.0


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
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > settings.max_bytes:
        raise _too_large(settings)
    pieces, size = [], 0
    now = asyncio.get_running_loop().time
    end = now() + settings.timeout
    try:
        async with asyncio.timeout_at(min(end, now() + STALL)) as patience:
            async for piece in request.stream():
                patience.reschedule(min(end, now() + STALL))
                size += len(piece)
                if size > settings.max_bytes:
                    raise _too_large(settings)
                pieces.append(piece)
    except TimeoutError:
        if now() < end:
            raise HTTPException(408, f"no bytes of the image arrived for {STALL:g} seconds; try again") from None
        raise HTTPException(
            408, f"the image was not received within {settings.timeout:g} seconds; send a smaller one, or try again"
        ) from None
    if not size:
        raise HTTPException(400, "the body is empty; send the bytes of an image file")
    return b"".join(pieces)


def _too_large(settings: Settings) -> HTTPException:
    return HTTPException(413, f"the image has more than {settings.max_bytes:,} bytes; send a smaller one")
