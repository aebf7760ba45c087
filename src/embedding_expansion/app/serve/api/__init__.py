"""The routes of the JSON API: each validates its request, asks the service and returns a typed response."""

from __future__ import annotations

from fastapi import APIRouter, Response

from embedding_expansion.app.serve import metrics, models
from embedding_expansion.app.serve.api import editing, items, overview, searching
from embedding_expansion.app.serve.api.parameters import NO_COLLECTION, Served

#: The routes of every server, and those of one with --edit.
routers, edit = (searching.router, items.router, overview.router), editing.router
open_to_all, monitoring = APIRouter(), APIRouter(responses=NO_COLLECTION)


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
