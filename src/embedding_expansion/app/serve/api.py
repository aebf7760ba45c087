"""The routes of the JSON API: each validates its request, asks the service and returns a typed response."""

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


async def _service(request: Request) -> Service:  # async: runs without a worker thread, as all may be busy
    service: Service = request.app.state.service
    return service


async def _root(request: Request) -> str:
    """The prefix of all URLs of this server: that of a proxy, or an empty string."""
    return str(request.scope.get("root_path", ""))


Served = Annotated[Service, Depends(_service)]
Root = Annotated[str, Depends(_root)]
Id = Annotated[int, Path(ge=1, le=2**63 - 1, description="the id of an item, as found in responses")]
K = Annotated[int, Query(ge=1, le=100, description="number of images to return")]
Qe = Annotated[int, Query(ge=0, le=20, description="number of neighbours used for query expansion; 0 turns it off")]
_ALPHA = "query expansion weighs each neighbour by its cosine similarity to this power"
Alpha = Annotated[float, Query(ge=0, le=20, allow_inf_nan=False, description=_ALPHA)]
Label = Annotated[str | None, Query(max_length=1000, description="return only images with this label")]

_FILE = {"schema": {"type": "string", "format": "binary"}}
_IMAGE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the bytes of an image file: JPEG, PNG, WebP, GIF or AVIF, unless --formats was set",
        "content": {"application/octet-stream": _FILE, "image/jpeg": _FILE, "image/png": _FILE},
    }
}
_NO_ITEM: dict[int | str, dict[str, Any]] = {404: {"model": models.ErrorBody, "description": "No item has this id"}}
_UPLOAD: dict[int | str, dict[str, Any]] = {
    400: {"model": models.ErrorBody, "description": "The body is empty"},
    408: {"model": models.ErrorBody, "description": "The upload is too slow"},
    413: {"model": models.ErrorBody, "description": "The image has too many bytes or pixels"},
    415: {"model": models.ErrorBody, "description": "The body is a form, or an image in a format that is not accepted"},
    503: {"model": models.ErrorBody, "description": "Too many images are waiting; try again after Retry-After seconds"},
    504: {"model": models.ErrorBody, "description": "The image takes too long to decode"},
}


@api.post("/search", responses=_UPLOAD, openapi_extra=_IMAGE)
async def search(
    request: Request, service: Served, root: Root, k: K = 10, qe: Qe = 0, alpha: Alpha = 3.0, label: Label = None
) -> models.AnswerModel:
    """Finds the images of the collection that are most similar to the uploaded image."""
    decoders = service.decoders
    with service.batcher.place() as hand_over:
        image = await read_image(request, service.settings)
        try:
            async with asyncio.timeout(service.settings.timeout):
                square = await decoders.square(image)
                del image  # frees the upload, which may be large
                row = await asyncio.wrap_future(hand_over(square))
        except TimeoutError:
            raise HTTPException(
                503, "the server is too busy to answer in time; try again in a moment", {"Retry-After": "5"}
            ) from None
    return _answer(await run_in_threadpool(service.search, row, k, qe, alpha, label), root)


@api.get("/items/{id}", responses=_NO_ITEM)
def item(id: Id, service: Served, root: Root) -> models.ItemDetail:
    """Returns one image of the collection with all its metadata."""
    return models.ItemDetail.of_item(_found(service, id), root)


@api.get("/items/{id}/neighbours", responses=_NO_ITEM)
def neighbours(
    id: Id, service: Served, root: Root, k: K = 10, qe: Qe = 0, alpha: Alpha = 3.0, label: Label = None
) -> models.AnswerModel:
    """Finds the images that are most similar to one of the collection. The image itself is left out."""
    _found(service, id)
    return _answer(service.neighbours(id, k, qe, alpha, label), root)


@api.get(
    "/items/{id}/thumbnail",
    response_class=Response,
    responses=_NO_ITEM
    | {
        200: {"content": {"image/jpeg": _FILE, "image/png": _FILE, "image/gif": _FILE}, "description": "The thumbnail"},
        304: {"description": "The client has this thumbnail already"},
    },
)
def thumbnail(id: Id, service: Served, request: Request) -> Response:
    """Returns the thumbnail of an image. It is read from the index, never from the image file."""
    content = _found(service, id).thumbnail
    kind = picture_type(content) if content else None
    if content is None or kind is None:
        raise HTTPException(404, f"item {id} has no thumbnail; build the index again to create one")
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "Cache-Control": "private, max-age=300"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


@api.get("/samples")
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


@api.get("/map")
def collection_map(service: Served) -> models.MapModel:
    """Returns the map: 2-D positions of the images, with similar images close to each other."""
    return models.MapModel.of(service.collection_map)


@api.get("/clusters")
def clusters(service: Served, root: Root) -> models.ClusterList:
    """Returns the k-means clusters of the collection."""
    return models.ClusterList.of(service.collection_map, root)


@api.get("/clusters/{c}", responses={404: {"model": models.ErrorBody, "description": "No cluster has this id"}})
def cluster(
    c: Annotated[int, Path(ge=0, le=2**31 - 1, description="the id of a cluster")],
    service: Served,
    root: Root,
    n: Annotated[int, Query(ge=1, le=500, description="the maximum number of images")] = 100,
) -> models.ClusterItems:
    """Returns the images of a cluster, the closest to its centre first."""
    drawn = service.collection_map  # read once: another thread may replace it
    if c >= drawn.clusters:
        raise HTTPException(404, f"there is no cluster {c}; /api/clusters lists all clusters")
    return models.ClusterItems.of(drawn, c, n, root)


@api.get("/about")
def about(service: Served) -> models.About:
    """Describes the collection, the model and the limits of the server."""
    return service.about()


@open_to_all.get("/healthz")
async def healthz() -> models.Health:
    """Reports that the server runs, whatever the state of the index. Needs no token."""
    return models.Health(status="ok")


@monitoring.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}, "description": "The metrics"}}
)
async def metrics_text(service: Served) -> Response:
    """Returns counts and durations of requests, the queue and the batches in the text format of Prometheus."""
    gauges = {
        "embex_queue_length": ("images that are being received or are waiting for the model", service.batcher.taken),
        "embex_queue_limit": ("the maximum of embex_queue_length", service.settings.queue),
        "embex_items": ("images in the index when the map was last computed", service.collection_map.total),
    }
    return Response(service.metrics.text(gauges), media_type=metrics.CONTENT_TYPE)


def _answer(answer: Answer, root: str) -> models.AnswerModel:
    matches = [models.MatchModel.of_match(match, root) for match in answer.matches]
    return models.AnswerModel(
        matches=matches, known=answer.known, threshold=answer.threshold, threshold_reason=answer.reason
    )


def _found(service: Service, id: int) -> Any:
    try:
        return service.item(id)
    except InvalidInput:
        raise _missing(id) from None


def _missing(id: int) -> HTTPException:
    return HTTPException(404, f"there is no item {id}; it may have been removed, so search again")
