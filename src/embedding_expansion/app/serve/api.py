"""The routes: each checks what it is asked, asks the service, and says it as a typed answer."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from embedding_expansion.app.serve import metrics, models
from embedding_expansion.app.serve.limits import read_image
from embedding_expansion.app.serve.service import Service, picture_type
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.collection import Answer

api, open_to_all, monitoring = APIRouter(prefix="/api"), APIRouter(), APIRouter()


async def _service(request: Request) -> Service:  # async: without a thread, which may all be taken
    service: Service = request.app.state.service
    return service


async def _root(request: Request) -> str:
    """What the addresses of this server begin with: the prefix of a proxy, or nothing."""
    return str(request.scope.get("root_path", ""))


Served = Annotated[Service, Depends(_service)]
Root = Annotated[str, Depends(_root)]
Id = Annotated[int, Path(ge=1, le=2**63 - 1, description="of an item, as answers give it")]
K = Annotated[int, Query(ge=1, le=100, description="how many images are wanted")]
Qe = Annotated[int, Query(ge=0, le=20, description="query expansion by so many of the neighbours; 0 is none")]
_ALPHA = "the exponent of a neighbour's cosine in query expansion"
Alpha = Annotated[float, Query(ge=0, le=20, allow_inf_nan=False, description=_ALPHA)]
Label = Annotated[str | None, Query(max_length=1000, description="only images of this label")]

_FILE = {"schema": {"type": "string", "format": "binary"}}
_IMAGE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the bytes of an image file: JPEG, PNG, WebP, GIF or AVIF, unless the server was told otherwise",
        "content": {"application/octet-stream": _FILE, "image/jpeg": _FILE, "image/png": _FILE},
    }
}
_NO_ITEM: dict[int | str, dict[str, Any]] = {404: {"model": models.Problem, "description": "There is no such item"}}
_UPLOAD: dict[int | str, dict[str, Any]] = {
    400: {"model": models.Problem, "description": "Nothing was sent"},
    408: {"model": models.Problem, "description": "The image came too slowly"},
    413: {"model": models.Problem, "description": "The image has too many bytes or pixels"},
    415: {"model": models.Problem, "description": "A form was sent, or an image of another format"},
    503: {"model": models.Problem, "description": "Too many images wait; Retry-After says when to come back"},
    504: {"model": models.Problem, "description": "The image takes too long to decode"},
}


@api.post("/search", responses=_UPLOAD, openapi_extra=_IMAGE)
async def search(
    request: Request, service: Served, root: Root, k: K = 10, qe: Qe = 0, alpha: Alpha = 3.0, label: Label = None
) -> models.AnswerModel:
    """Finds the images of the collection that are closest to an image."""
    decoders = service.decoders
    with service.batcher.place() as hand_over:
        image = await read_image(request, service.settings)
        try:
            async with asyncio.timeout(service.settings.timeout):
                square = await decoders.square(image)
                del image  # which may be large
                row = await asyncio.wrap_future(hand_over(square))
        except TimeoutError:
            raise HTTPException(
                503, "the server is too busy to answer in time; try again in a moment", {"Retry-After": "5"}
            ) from None
    return _answer(await run_in_threadpool(service.search, row, k, qe, alpha, label), root)


@api.get("/items/{id}", responses=_NO_ITEM)
def item(id: Id, service: Served, root: Root) -> models.ItemDetail:
    """All that is known of an image."""
    return models.ItemDetail.of_item(_found(service, id), root)


@api.get("/items/{id}/neighbours", responses=_NO_ITEM)
def neighbours(
    id: Id, service: Served, root: Root, k: K = 10, qe: Qe = 0, alpha: Alpha = 3.0, label: Label = None
) -> models.AnswerModel:
    """The images closest to one of the collection, which is not among them."""
    _found(service, id)
    return _answer(service.neighbours(id, k, qe, alpha, label), root)


@api.get(
    "/items/{id}/thumbnail",
    response_class=Response,
    responses=_NO_ITEM
    | {
        200: {"content": {"image/jpeg": _FILE, "image/png": _FILE, "image/gif": _FILE}, "description": "The picture"},
        304: {"description": "It is the one that the client has"},
    },
)
def thumbnail(id: Id, service: Served, request: Request) -> Response:
    """The small picture of an image, as it is kept in the index; no other file is ever read."""
    content = _found(service, id).thumbnail
    kind = picture_type(content) if content else None
    if content is None or kind is None:
        raise HTTPException(404, f"item {id} has no thumbnail; make the index again to have one")
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "Cache-Control": "private, max-age=300"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


@api.get("/samples")
def samples(
    service: Served,
    root: Root,
    n: Annotated[int, Query(ge=1, le=100, description="how many")] = 12,
    seed: Annotated[int | None, Query(ge=0, le=2**32 - 1, description="the same seed, the same images")] = None,
) -> models.Samples:
    """Images of the collection, drawn at random."""
    return models.Samples(items=[models.ItemModel.of(one, root) for one in service.samples(n, seed)])


@api.get("/map")
def landscape(service: Served) -> models.MapModel:
    """The collection in the plane, images that are alike beside each other."""
    return models.MapModel.of(service.landscape)


@api.get("/clusters")
def clusters(service: Served, root: Root) -> models.Clusters:
    """Groups of images that are alike, found by k-means."""
    return models.Clusters.of(service.landscape, root)


@api.get("/clusters/{c}", responses={404: {"model": models.Problem, "description": "There is no such cluster"}})
def cluster(
    c: Annotated[int, Path(ge=0, le=2**31 - 1, description="of a cluster")],
    service: Served,
    root: Root,
    n: Annotated[int, Query(ge=1, le=500, description="how many images at most")] = 100,
) -> models.ClusterItems:
    """The images of a cluster, the closest to its centre first."""
    known = service.landscape  # once, as it may change
    if c >= known.clusters:
        raise HTTPException(404, f"there is no cluster {c}; ask /api/clusters for those that there are")
    return models.ClusterItems.of(known, c, n, root)


@api.get("/about")
def about(service: Served) -> models.About:
    """What is served, and within which limits."""
    return service.about()


@open_to_all.get("/healthz")
async def healthz() -> models.Health:
    """That the server answers, whatever its index does; needs no token."""
    return models.Health(status="ok")


@monitoring.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}, "description": "The metrics"}}
)
async def metrics_text(service: Served) -> Response:
    """Requests, their time, the queue and the batches, in the text format of Prometheus."""
    gauges = {
        "embex_queue_length": ("images that are being received or wait for the model", service.batcher.taken),
        "embex_queue_limit": ("images that may", service.settings.queue),
        "embex_items": ("images in the index when it was last looked through", service.landscape.total),
    }
    return Response(service.metrics.text(gauges), media_type=metrics.CONTENT_TYPE)


def _answer(answer: Answer, root: str) -> models.AnswerModel:
    matches = [models.MatchModel.of_match(match, root) for match in answer.matches]
    return models.AnswerModel(matches=matches, known=answer.known, threshold=answer.threshold)


def _found(service: Service, id: int) -> Any:
    try:
        return service.item(id)
    except InvalidInput:
        raise _missing(id) from None


def _missing(id: int) -> HTTPException:
    return HTTPException(404, f"there is no item {id}; search again, it may have been removed")
