"""The parameters that several routes share, and what their answers have in common."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, HTTPException, Path, Query, Request
from pydantic import BaseModel

from embedding_expansion.app.serve import models
from embedding_expansion.app.serve.filters import Filter
from embedding_expansion.app.serve.service import Asked, Service
from embedding_expansion.inference.collection import Answer

_COLLECTION = "0 for the collection, 1 for the one of --beside"


async def _service(  # async: runs without a worker thread, as all may be busy
    request: Request, collection: Annotated[int, Query(ge=0, le=1, description=_COLLECTION)] = 0
) -> Service:
    service: Service = request.app.state.service
    if collection == 0:
        return service
    if service.beside is None:
        raise HTTPException(404, "there is no second collection; start the server with --beside INDEX")
    return service.beside


async def _root(request: Request) -> str:
    """The prefix of all URLs of this server: that of a proxy, or an empty string."""
    return str(request.scope.get("root_path", ""))


Served = Annotated[Service, Depends(_service)]
Root = Annotated[str, Depends(_root)]
Id = Annotated[int, Path(ge=1, le=2**63 - 1, description="the id of an item, as found in responses")]
Offset = Annotated[int, Query(ge=0, le=10_000, description="how many of the first results to leave out")]

_K = Query(ge=1, le=100, description="number of images to return")
_QE = Query(ge=0, le=20, description="number of neighbours used for query expansion; 0 turns it off")
_ALPHA = "query expansion weighs each neighbour by its cosine similarity to this power"


async def _asked(
    where: Filter,
    k: Annotated[int, _K] = 10,
    offset: Offset = 0,
    qe: Annotated[int, _QE] = 0,
    alpha: Annotated[float, Query(ge=0, le=20, allow_inf_nan=False, description=_ALPHA)] = 3.0,
) -> Asked:
    return Asked(k, offset, qe, alpha, where)


#: The options of a search.
Search = Annotated[Asked, Depends(_asked)]

FILE = {"schema": {"type": "string", "format": "binary"}}
IMAGE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "the bytes of an image file: JPEG, PNG, WebP, GIF or AVIF, unless --formats was set",
        "content": {"application/octet-stream": FILE, "image/jpeg": FILE, "image/png": FILE},
    }
}
NO_COLLECTION: dict[int | str, dict[str, Any]] = {
    404: {"model": models.ErrorBody, "description": "There is no second collection"}
}
NO_ITEM: dict[int | str, dict[str, Any]] = {404: {"model": models.ErrorBody, "description": "No item has this id"}}
UPLOAD: dict[int | str, dict[str, Any]] = {
    400: {"model": models.ErrorBody, "description": "The body is empty"},
    408: {"model": models.ErrorBody, "description": "The upload is too slow"},
    413: {"model": models.ErrorBody, "description": "The image has too many bytes or pixels"},
    415: {"model": models.ErrorBody, "description": "The body is a form, or an image in a format that is not accepted"},
    503: {"model": models.ErrorBody, "description": "Too many images are waiting; try again after Retry-After seconds"},
    504: {"model": models.ErrorBody, "description": "The image takes too long to decode"},
}
JSON_BODY: dict[int | str, dict[str, Any]] = {
    408: {"model": models.ErrorBody, "description": "The request is too slow"},
    413: {"model": models.ErrorBody, "description": "The request has too many bytes"},
}


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """Describes a body in JSON, which a route reads itself so that its size is limited."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


def answer_of(answer: Answer, root: str) -> models.AnswerModel:
    """Converts the answer of a search."""
    matches = [models.MatchModel.of_match(match, root) for match in answer.matches]
    return models.AnswerModel(
        matches=matches, known=answer.known, threshold=answer.threshold, threshold_reason=answer.reason
    )
