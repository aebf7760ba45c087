"""Routes to the collection as a whole: the map, the clusters and the near-duplicates."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query

from embedding_expansion.app.serve import models
from embedding_expansion.app.serve.api.parameters import NO_COLLECTION, Offset, Root, Served
from embedding_expansion.app.serve.grouping import MOST_CLUSTERS

router = APIRouter(prefix="/api", responses=NO_COLLECTION)

_CLUSTERS = "number of clusters; by default the number of labels, or without labels the square root of half the images"
Clusters = Annotated[int | None, Query(ge=1, le=MOST_CLUSTERS, description=_CLUSTERS)]


@router.get("/map")
def collection_map(service: Served, k: Clusters = None) -> models.MapModel:
    """Returns the map: 2-D positions of the images, with similar images close to each other.

    While clusters for another k are computed, the map has the default ones.
    """
    drawn = service.collection_map  # read once: another thread may replace it
    return models.MapModel.of(drawn, service.views.clusters(drawn, k) or drawn.grouping)


@router.get("/clusters")
def clusters(service: Served, root: Root, k: Clusters = None) -> models.ClusterList:
    """Returns the k-means clusters of the collection. Those for another k are computed first; ask again then."""
    drawn = service.collection_map
    return models.ClusterList.of(drawn, service.views.clusters(drawn, k), root)


@router.get(
    "/clusters/{c}",
    responses={404: {"model": models.ErrorBody, "description": "No cluster has this id"}},
)
def cluster(
    c: Annotated[int, Path(ge=0, le=2**31 - 1, description="the id of a cluster")],
    service: Served,
    root: Root,
    k: Clusters = None,
    offset: Offset = 0,
    n: Annotated[int, Query(ge=1, le=500, description="the maximum number of images")] = 100,
) -> models.ClusterItems:
    """Returns the images of a cluster, the closest to its centre first. Ask again while its state is "computing"."""
    drawn = service.collection_map
    grouping = service.views.clusters(drawn, k)
    if grouping is None:
        return models.ClusterItems(state="computing", id=c, size=0, label=None, items=[])
    if c >= grouping.count:
        raise HTTPException(404, f"there is no cluster {c}; /api/clusters lists all clusters")
    return models.ClusterItems.of(drawn, grouping, c, offset, n, root)


@router.get("/duplicates")
def duplicates(
    service: Served,
    root: Root,
    similarity: Annotated[
        float, Query(ge=0.5, le=1, allow_inf_nan=False, description="the smallest cosine similarity of near-duplicates")
    ] = 0.98,
    offset: Offset = 0,
    n: Annotated[int, Query(ge=1, le=200, description="the maximum number of groups")] = 50,
) -> models.CopyList:
    """Returns groups of near-duplicates, the largest first. They are computed first; ask again then."""
    return models.CopyList.of(service.views.duplicates(service.version(), similarity), offset, n, root)
