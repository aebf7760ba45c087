"""Routes that change the collection; a server has them with --edit only, and they need its token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from starlette.concurrency import run_in_threadpool

from embedding_expansion.app.serve import models
from embedding_expansion.app.serve.api.parameters import IMAGE, JSON_BODY, NO_ITEM, UPLOAD, Root, body_of
from embedding_expansion.app.serve.api.searching import embedded
from embedding_expansion.app.serve.editing import Conflict, Editor, Unwritable
from embedding_expansion.app.serve.limits import read_json
from embedding_expansion.app.serve.service import Service
from embedding_expansion.retrieval.index import Item

router = APIRouter(prefix="/api")


async def _edited(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _editor(request: Request) -> Editor:
    editor: Editor = request.app.state.service.editor
    return editor


Edited = Annotated[Service, Depends(_edited)]
By = Annotated[Editor, Depends(_editor)]
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": models.ErrorBody, "description": "The change contradicts what the collection holds now"},
    503: {"model": models.ErrorBody, "description": "Another process is writing; try again after Retry-After seconds"},
}
_NAME = "the name of the file at the client, kept as metadata"


@router.post("/items", responses=UPLOAD | _CONFLICT, openapi_extra=IMAGE)
async def add(
    request: Request,
    service: Edited,
    editor: By,
    root: Root,
    label: Annotated[str | None, Query(max_length=1000, description="the label of the image")] = None,
    name: Annotated[str, Query(max_length=1000, description=_NAME)] = "an image",
) -> models.Change:
    """Adds the uploaded image to the collection. The server saves its file in the folder of --uploads."""
    image, decoded, row = await embedded(request, service, with_thumbnail=True)
    return await _changed(lambda: editor.add(image, decoded, row, label or None, name), root)


@router.post("/relabel", responses=NO_ITEM | JSON_BODY | _CONFLICT, openapi_extra=body_of(models.Relabelling))
async def relabel(request: Request, service: Edited, editor: By, root: Root) -> models.Change:
    """Gives some images another label."""
    body = await read_json(request, models.Relabelling, service.settings)
    return await _changed(lambda: editor.relabel(body.ids, body.label or None), root)


@router.post("/remove", responses=NO_ITEM | JSON_BODY | _CONFLICT, openapi_extra=body_of(models.Selection))
async def remove(request: Request, service: Edited, editor: By, root: Root) -> models.Change:
    """Removes some images from the collection. Their files stay."""
    body = await read_json(request, models.Selection, service.settings)
    return await _changed(lambda: editor.remove(body.ids), root)


@router.get("/changes")
def changes(editor: By) -> models.Undoable:
    """Returns the changes that can be undone, the latest first."""
    return models.Undoable(changes=[models.shown(what) for what in editor.changes()], limit=editor.limit)


@router.post("/undo", responses=_CONFLICT)
async def undo(editor: By, root: Root) -> models.Change:
    """Undoes the latest change."""
    return await _changed(editor.undo, root)


async def _changed(change: Callable[[], tuple[str, list[Item]]], root: str) -> models.Change:
    try:
        what, items = await run_in_threadpool(change)
    except Conflict as error:
        raise HTTPException(409, str(error)) from None
    except Unwritable as error:
        raise HTTPException(503, str(error), {"Retry-After": "2"}) from error
    return models.Change(done=models.shown(what), items=[models.ItemModel.of(item, root) for item in items])
