"""Routes to the items: browsing, one item, its pictures, samples, labels and metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from embedding_expansion.app.serve import exporting, models
from embedding_expansion.app.serve.api.parameters import (
    FILE,
    JSON_BODY,
    NO_COLLECTION,
    NO_ITEM,
    Id,
    Root,
    Served,
    body_of,
)
from embedding_expansion.app.serve.filters import Filter
from embedding_expansion.app.serve.limits import read_json
from embedding_expansion.app.serve.originals import KINDS, open_original
from embedding_expansion.app.serve.service import PICTURES, picture_type
from embedding_expansion.errors import DataError

router = APIRouter(prefix="/api", responses=NO_COLLECTION)


def _picture(kinds: Iterable[str]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"content": dict.fromkeys(kinds, FILE), "description": "The picture"},
        304: {"description": "The client has this picture already"},
    }


@router.get("/items")
def items(
    service: Served,
    root: Root,
    where: Filter,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="only images with a larger id")] = 0,
    n: Annotated[int, Query(ge=1, le=200, description="the maximum number of images")] = 50,
) -> models.ItemList:
    """Returns the images that fulfil the filters, by ascending id. The last id of a page begins the next one."""
    total, chosen = service.browse(where, after, n)
    return models.ItemList(total=total, items=[models.ItemModel.of(item, root) for item in chosen])


@router.get("/items/{id}", responses=NO_ITEM)
def item(id: Id, service: Served, root: Root) -> models.ItemDetail:
    """Returns one image of the collection with all its metadata."""
    return models.ItemDetail.of_item(service.item(id), root)


@router.get("/items/{id}/thumbnail", response_class=Response, responses=NO_ITEM | _picture(PICTURES.values()))
def thumbnail(id: Id, service: Served, request: Request) -> Response:
    """Returns the thumbnail of an image. It is read from the index, never from the image file."""
    content = service.item(id).thumbnail
    kind = picture_type(content) if content else None
    if content is None or kind is None:
        raise HTTPException(404, f"item {id} has no thumbnail; build the index again to create one")
    headers = _cached(hashlib.sha256(content).hexdigest()[:32])
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


@router.get("/items/{id}/original", response_class=Response, responses=NO_ITEM | _picture(KINDS))
def original(id: Id, service: Served, request: Request) -> Response:
    """Returns the original file of an image, if it is still where it was indexed and still an image."""
    if not service.settings.originals:
        raise HTTPException(404, "this server does not hand out original files")
    try:
        opened = open_original(service.item(id))
    except DataError as error:
        raise HTTPException(404, str(error)) from None
    headers = _cached(opened.tag) | {"Content-Length": str(opened.size)}
    if request.headers.get("if-none-match") == headers["ETag"]:
        opened.file.close()
        return Response(status_code=304, headers=_cached(opened.tag))
    return StreamingResponse(opened.pieces(), media_type=opened.kind, headers=headers)


@router.post(
    "/export",
    response_class=Response,
    responses=NO_ITEM
    | JSON_BODY
    | {
        200: {
            "content": {"text/plain": FILE, "text/csv": FILE, "application/zip": FILE},
            "description": "The exported selection",
        }
    },
    openapi_extra=body_of(models.Selection),
)
async def export(
    request: Request,
    service: Served,
    format: Annotated[
        Literal["paths", "csv", "zip"],
        Query(description="the paths, a table with labels and metadata, or the original files with that table"),
    ] = "paths",
) -> Response:
    """Exports some images: their paths, a table, or a zip file of the originals with a folder for each label."""
    if format == "zip" and not service.settings.originals:
        raise HTTPException(404, "this server does not hand out original files; export the paths or a table")
    body = await read_json(request, models.Selection, service.settings)
    chosen = await run_in_threadpool(service.items, body.ids)
    if format == "paths":
        return _download(iter([exporting.paths(chosen)]), "text/plain; charset=utf-8", "paths.txt")
    if format == "csv":
        return _download(iter([exporting.table(chosen)]), "text/csv; charset=utf-8", "images.csv")
    return _download(await run_in_threadpool(exporting.archive, chosen), "application/zip", "images.zip")


@router.get("/samples")
def samples(
    service: Served,
    root: Root,
    n: Annotated[int, Query(ge=1, le=100, description="number of images")] = 12,
    seed: Annotated[
        int | None, Query(ge=0, le=2**32 - 1, description="random seed; the same seed returns the same images")
    ] = None,
) -> models.Samples:
    """Returns random images of the collection."""
    return models.Samples(items=[models.ItemModel.of(one, root) for one in service.samples(n, seed)])


@router.get("/labels")
def labels(
    service: Served,
    contains: Annotated[str, Query(max_length=1000, description="a part of the label; letters match in any case")] = "",
    n: Annotated[int, Query(ge=1, le=1000, description="the maximum number of labels")] = 100,
) -> models.LabelList:
    """Returns the most frequent labels that contain a text, as of the latest map."""
    return models.LabelList.of(service.collection_map.facets.labels_containing(contains, n))


@router.get("/facts")
def facts(
    service: Served,
    n: Annotated[int, Query(ge=1, le=1000, description="the maximum number of values of each key")] = 100,
) -> models.FactList:
    """Returns the metadata by which one can filter, as of the latest map."""
    return models.FactList.of(service.collection_map.facets.facts, n)


@router.get("/about")
def about(service: Served) -> models.About:
    """Describes the collection, the model and the limits of the server."""
    return service.about()


def _cached(tag: str) -> dict[str, str]:
    return {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=300"}


def _download(pieces: Iterator[bytes], kind: str, name: str) -> Response:
    return StreamingResponse(pieces, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
