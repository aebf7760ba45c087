"""Routes that search: by an image, by items, or by several of both."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.concurrency import run_in_threadpool

from embedding_expansion.app.serve import models
from embedding_expansion.app.serve.api.parameters import (
    IMAGE,
    JSON_BODY,
    NO_COLLECTION,
    NO_ITEM,
    UPLOAD,
    Id,
    Root,
    Search,
    Served,
    answer_of,
    body_of,
)
from embedding_expansion.app.serve.batching import Row
from embedding_expansion.app.serve.limits import read_image, read_json
from embedding_expansion.app.serve.service import Service
from embedding_expansion.inference.decoder import Decoded

router = APIRouter(prefix="/api", responses=NO_COLLECTION)


@router.post("/search", responses=UPLOAD, openapi_extra=IMAGE)
async def search(request: Request, service: Served, root: Root, asked: Search) -> models.AnswerModel:
    """Finds the images of the collection that are most similar to the uploaded image."""
    _, _, row = await embedded(request, service)
    return answer_of(await run_in_threadpool(service.search, row, asked), root)


@router.post("/embed", responses=UPLOAD, openapi_extra=IMAGE)
async def embed(request: Request, service: Served) -> models.Embedding:
    """Embeds the uploaded image. Its vector is one of the images of a query, see /api/query."""
    _, _, row = await embedded(request, service)
    return models.Embedding.of(row)


@router.post("/query", responses=NO_ITEM | JSON_BODY, openapi_extra=body_of(models.QueryBody))
async def query(request: Request, service: Served, root: Root, asked: Search) -> models.AnswerModel:
    """Finds the images that are most similar to several images: to the mean of their unit vectors.

    Images of the query that are items of the collection are left out.
    """
    body = await read_json(request, models.QueryBody, service.settings)
    return answer_of(await run_in_threadpool(service.combined, body.vectors, body.ids, asked), root)


@router.get("/text")
def text(
    service: Served,
    root: Root,
    asked: Search,
    text: Annotated[str, Query(min_length=1, max_length=1000, description="what the images should show")],
) -> models.AnswerModel:
    """Finds the images that are most similar to a text, if the model has a text tower; see `takes_text` of /about."""
    return answer_of(service.search_text(text, asked), root)


@router.get("/items/{id}/neighbours", responses=NO_ITEM)
def neighbours(id: Id, service: Served, root: Root, asked: Search) -> models.AnswerModel:
    """Finds the images that are most similar to one of the collection. The image itself is left out."""
    service.item(id)
    return answer_of(service.neighbours(id, asked), root)


async def embedded(request: Request, service: Service, *, with_thumbnail: bool = False) -> tuple[bytes, Decoded, Row]:
    """Reads, decodes and embeds the image in the body of a request.

    Raises:
        HTTPException, Refused, Busy, Stopped: the image is refused, or the server is too busy.
    """
    decoders = service.decoders
    with service.batcher.place() as hand_over:
        image = await read_image(request, service.settings)
        try:
            async with asyncio.timeout(service.settings.timeout):
                decoded = await decoders.decoded(image, with_thumbnail=with_thumbnail)
                if not with_thumbnail:
                    image = b""  # frees the upload, which may be large
                row = await asyncio.wrap_future(hand_over(decoded.square))
        except TimeoutError:
            raise HTTPException(
                503, "the server is too busy to answer in time; try again in a moment", {"Retry-After": "5"}
            ) from None
    return image, decoded, row
