"""The response types of the API. FastAPI validates responses with them and generates the OpenAPI schema."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, Field

from embedding_expansion.app.serve.collection_map import CollectionMap, State
from embedding_expansion.retrieval.index import Item, Match

#: Number of example images per cluster.
EXAMPLES = 4

_SURROGATES = re.compile("[\ud800-\udfff]")


def shown(text: str) -> str:
    """Makes a text valid UTF-8: undecodable bytes of a file name become U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


class ErrorBody(BaseModel):
    """The reason why a request failed, in one sentence."""

    detail: str


class ItemModel(BaseModel):
    """An image of the collection."""

    id: int
    path: str
    label: str | None
    width: int | None = Field(description="width of the original image in pixels; null if unknown")
    height: int | None = Field(description="height of the original image in pixels; null if unknown")
    thumbnail: str = Field(description="path of its thumbnail on this server")

    @classmethod
    def of(cls, item: Item, root: str) -> ItemModel:
        """Converts an item. `root` is the prefix of the server's URLs."""
        width, height = (item.metadata.get(side) for side in ("width", "height"))
        return cls(
            id=item.id or 0,
            path=shown(item.path),
            label=None if item.label is None else shown(item.label),
            width=width if isinstance(width, int) else None,
            height=height if isinstance(height, int) else None,
            thumbnail=f"{root}/api/items/{item.id}/thumbnail",
        )


class ItemDetail(ItemModel):
    """An image with all its metadata."""

    metadata: dict[str, Any]

    @classmethod
    def of_item(cls, item: Item, root: str) -> ItemDetail:
        """Converts an item with its metadata."""
        metadata = json.loads(shown(json.dumps(dict(item.metadata), ensure_ascii=False)))
        return cls(**ItemModel.of(item, root).model_dump(), metadata=metadata)


class MatchModel(ItemModel):
    """An image that matches a query."""

    similarity: float = Field(description="cosine similarity to the query; larger is closer, at most 1")

    @classmethod
    def of_match(cls, match: Match, root: str) -> MatchModel:
        """Converts a match."""
        return cls(**ItemModel.of(match.item, root).model_dump(), similarity=match.similarity)


class AnswerModel(BaseModel):
    """The matches of a query, the closest first."""

    matches: list[MatchModel]
    known: bool | None = Field(
        description="whether the best match reaches the calibrated threshold; null if there is none for this collection"
    )
    threshold: float | None = Field(description="the calibrated threshold of similarity")
    threshold_reason: str = Field(
        description="why there is no threshold, or why it is that of the model; empty if it was calibrated on the "
        "collection"
    )


class Samples(BaseModel):
    """Random images of the collection."""

    items: list[ItemModel]


class MapModel(BaseModel):
    """2-D positions of the images: entry i of each list belongs to image i. x and y range from 0 to 1; y points up."""

    state: State
    version: str = Field(description="identifies the state of the index that the map shows")
    method: Literal["PCA", "t-SNE"] | None
    total: int = Field(description="images in the collection; the map shows a random sample of a large one")
    ids: list[int]
    x: list[float]
    y: list[float]
    labels: list[str] = Field(description="label names, the most frequent first; `label` holds indices into this list")
    label: list[int] = Field(description="index of each image's label in `labels`; -1 for none")
    cluster: list[int]

    @classmethod
    def of(cls, drawn: CollectionMap) -> MapModel:
        """Converts a map."""
        counts = Counter(item.label for item in drawn.items if item.label is not None)
        position = {label: place for place, (label, _) in enumerate(counts.most_common())}
        return cls(
            state=drawn.state,
            version=drawn.version,
            method=drawn.method,
            total=drawn.total,
            ids=[item.id or 0 for item in drawn.items],
            x=drawn.positions[:, 0].round(4).tolist(),
            y=drawn.positions[:, 1].round(4).tolist(),
            labels=[shown(label) for label in position],
            label=[position.get(item.label, -1) if item.label is not None else -1 for item in drawn.items],
            cluster=drawn.cluster.tolist(),
        )


class ClusterModel(BaseModel):
    """A cluster of similar images."""

    id: int
    size: int
    label: str | None = Field(description="the most frequent label of its images")
    share: float = Field(description="the share of its images with this label")
    examples: list[ItemModel] = Field(description="the images closest to its centre")

    @classmethod
    def of_cluster(cls, drawn: CollectionMap, cluster: int, root: str) -> ClusterModel:
        """Converts one cluster of the map."""
        members = [drawn.items[place] for place in drawn.members(cluster)]
        counts = Counter(item.label for item in members if item.label is not None)
        label, count = counts.most_common(1)[0] if counts else (None, 0)
        return cls(
            id=cluster,
            size=len(members),
            label=None if label is None else shown(label),
            share=count / len(members),
            examples=[ItemModel.of(item, root) for item in members[:EXAMPLES]],
        )


class ClusterList(BaseModel):
    """All clusters, the largest first."""

    state: State
    total: int
    grouped: int = Field(description="images in the clusters: all, or a random sample of a large collection")
    clusters: list[ClusterModel]

    @classmethod
    def of(cls, drawn: CollectionMap, root: str) -> ClusterList:
        """Converts all clusters of the map."""
        return cls(
            state=drawn.state,
            total=drawn.total,
            grouped=len(drawn.items),
            clusters=[ClusterModel.of_cluster(drawn, c, root) for c in range(drawn.clusters)],
        )


class ClusterItems(BaseModel):
    """The images of one cluster, the closest to its centre first."""

    id: int
    size: int
    label: str | None
    items: list[MatchModel] = Field(description="each image with its similarity to the centre of the cluster")

    @classmethod
    def of(cls, drawn: CollectionMap, cluster: int, count: int, root: str) -> ClusterItems:
        """Converts one cluster with its first `count` items."""
        places = drawn.members(cluster)
        chosen = [Match(drawn.items[p], float(drawn.closeness[p])) for p in places[:count]]
        return cls(
            id=cluster,
            size=len(places),
            label=ClusterModel.of_cluster(drawn, cluster, root).label,
            items=[MatchModel.of_match(match, root) for match in chosen],
        )


class LabelCount(BaseModel):
    """A label and the number of its images."""

    label: str
    count: int


class ModelFacts(BaseModel):
    """The model, as model.json describes it."""

    backbone: str | None
    data: str | None = Field(description="the data set that it was trained on")
    loss: str | None
    device: str


class About(BaseModel):
    """The collection, the model and the limits of the server."""

    name: str
    version: str
    count: int
    dimensions: int
    kind: str
    reason: str
    recall: float | None
    model: ModelFacts
    threshold: float | None = Field(
        description="the similarity from which a query counts as known; null if there is none for this collection"
    )
    threshold_reason: str = Field(
        description="why there is no threshold, or why it is that of the model; empty if it was calibrated on the "
        "collection"
    )
    labels: list[LabelCount] = Field(description="the most frequent labels, at most 2,000")
    max_bytes: int
    max_pixels: int
    formats: list[str] = Field(description="accepted image formats")
    takes_images: bool = Field(description="false for a collection of vectors, which can only be searched by its items")


class Health(BaseModel):
    """The server runs."""

    status: Literal["ok"]
