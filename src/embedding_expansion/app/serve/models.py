"""The types of the API: what it answers, and what requests in JSON hold. FastAPI describes both in its schema."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from embedding_expansion.app.serve.collection_map import CollectionMap, State
from embedding_expansion.app.serve.grouping import Decided, Grouping
from embedding_expansion.app.serve.views import Copies
from embedding_expansion.retrieval.index import Item, Match

#: Number of example images per cluster.
EXAMPLES = 4
#: The most labels that the description of a collection lists.
MOST_LABELS = 2000
#: The most images of a group of near-duplicates that are listed.
MOST_COPIES = 100

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


class QueryBody(BaseModel):
    """Several images as one query: items of the collection, and vectors of other images from /api/embed."""

    ids: list[Annotated[int, Field(ge=1, le=2**63 - 1)]] = Field(default=[], max_length=100)
    vectors: list[list[Annotated[float, Field(allow_inf_nan=False)]]] = Field(default=[], max_length=100)


class Embedding(BaseModel):
    """The vector of an image, of unit norm."""

    vector: list[float]

    @classmethod
    def of(cls, row: np.ndarray) -> Embedding:
        """Converts a vector. Each number is the shortest that stands for the same float32."""
        return cls(vector=[float(str(value)) for value in row])


class ItemList(BaseModel):
    """Images of the collection by ascending id."""

    total: int = Field(description="how many images fulfil the filters")
    items: list[ItemModel]


class Selection(BaseModel):
    """Some images of the collection."""

    ids: list[Annotated[int, Field(ge=1, le=2**63 - 1)]] = Field(min_length=1, max_length=10_000)


class Relabelling(Selection):
    """Some images and their new label; null takes the label away."""

    label: str | None = Field(max_length=1000)


class Change(BaseModel):
    """A change of the collection, and the images that it left there."""

    done: str = Field(description="what was done, in a few words")
    items: list[ItemModel]


class Undoable(BaseModel):
    """The changes that can be undone, the latest first; and why an earlier one cannot, if so."""

    changes: list[str]
    limit: str = Field(description="how far back it goes, in one sentence")


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
    def of(cls, drawn: CollectionMap, grouping: Grouping) -> MapModel:
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
            cluster=grouping.cluster.tolist(),
        )


class ClusterModel(BaseModel):
    """A cluster of similar images."""

    id: int
    size: int
    label: str | None = Field(description="the most frequent label of its images")
    share: float = Field(description="the share of its images with this label")
    examples: list[ItemModel] = Field(description="the images closest to its centre")

    @classmethod
    def of_cluster(cls, drawn: CollectionMap, grouping: Grouping, cluster: int, root: str) -> ClusterModel:
        """Converts one cluster of the map."""
        members = [drawn.items[place] for place in grouping.members(cluster)]
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
    decided: Decided = Field(description="what decided the number of clusters: labels, size of the collection, request")
    clusters: list[ClusterModel]

    @classmethod
    def of(cls, drawn: CollectionMap, grouping: Grouping | None, root: str) -> ClusterList:
        """Converts all clusters of the map; without a grouping, they are still being computed."""
        return cls(
            state=drawn.state if grouping is not None else "computing",
            total=drawn.total,
            grouped=len(drawn.items),
            decided=grouping.decided if grouping is not None else "request",
            clusters=[ClusterModel.of_cluster(drawn, grouping, c, root) for c in range(grouping.count)]
            if grouping is not None
            else [],
        )


class ClusterItems(BaseModel):
    """The images of one cluster, the closest to its centre first."""

    state: Literal["computing", "ready"]
    id: int
    size: int
    label: str | None
    items: list[MatchModel] = Field(description="each image with its similarity to the centre of the cluster")

    @classmethod
    def of(
        cls, drawn: CollectionMap, grouping: Grouping, cluster: int, offset: int, count: int, root: str
    ) -> ClusterItems:
        """Converts one cluster with `count` items after the first `offset`."""
        places = grouping.members(cluster)
        chosen = [Match(drawn.items[p], float(grouping.closeness[p])) for p in places[offset : offset + count]]
        return cls(
            state="ready",
            id=cluster,
            size=len(places),
            label=ClusterModel.of_cluster(drawn, grouping, cluster, root).label,
            items=[MatchModel.of_match(match, root) for match in chosen],
        )


class CopyGroup(BaseModel):
    """Images of which each is a near-duplicate of another one in the group."""

    size: int
    items: list[MatchModel] = Field(description="each with the similarity to its closest; at most 100 are listed")


class CopyList(BaseModel):
    """Groups of near-duplicates, the largest first."""

    state: Literal["computing", "ready"]
    total: int = Field(description="images in the collection")
    compared: int = Field(description="images that were compared: all, or a random sample of a large collection")
    groups: int = Field(description="the number of groups")
    images: int = Field(description="the number of images in groups")
    listed: list[CopyGroup]

    @classmethod
    def of(cls, copies: Copies | None, offset: int, count: int, root: str) -> CopyList:
        """Converts `count` groups after the first `offset`; None is still being computed."""
        if copies is None:
            return cls(state="computing", total=0, compared=0, groups=0, images=0, listed=[])
        found = copies.found
        return cls(
            state="ready",
            total=copies.total,
            compared=len(copies.items),
            groups=len(found.groups),
            images=sum(len(group) for group in found.groups),
            listed=[
                CopyGroup(
                    size=len(group),
                    items=[
                        MatchModel.of_match(Match(copies.items[row], float(found.similarity[row])), root)
                        for row in group[:MOST_COPIES]
                    ],
                )
                for group in found.groups[offset : offset + count]
            ],
        )


class LabelCount(BaseModel):
    """A label and the number of its images."""

    label: str
    count: int


class LabelList(BaseModel):
    """Labels, the most frequent first."""

    labels: list[LabelCount]

    @classmethod
    def of(cls, counts: list[tuple[str, int]]) -> LabelList:
        """Converts labels with their numbers of images."""
        return cls(labels=[LabelCount(label=shown(label), count=count) for label, count in counts])


class ValueCount(BaseModel):
    """A value of the metadata, as a filter takes it, and the number of its images."""

    value: str
    count: int


class Fact(BaseModel):
    """A key of the metadata, with its most frequent values."""

    key: str
    values: list[ValueCount]


class FactList(BaseModel):
    """The metadata by which one can filter."""

    facts: list[Fact]

    @classmethod
    def of(cls, counts: Mapping[str, Counter[str]], most: int) -> FactList:
        """Converts the counts of the values of each key."""
        return cls(
            facts=[
                Fact(key=shown(key), values=[ValueCount(value=shown(v), count=n) for v, n in values.most_common(most)])
                for key, values in sorted(counts.items())
            ]
        )


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
    labels: list[LabelCount] = Field(description="the most frequent labels, at most 2,000; /api/labels finds others")
    number_of_labels: int
    max_bytes: int
    max_pixels: int
    formats: list[str] = Field(description="accepted image formats")
    takes_images: bool = Field(description="false for a collection of vectors, which can only be searched by its items")
    takes_text: bool = Field(description="whether the model can embed texts, so that /api/text answers")
    originals: bool = Field(description="whether the server hands out the original files")
    can_edit: bool = Field(description="whether images can be added, relabelled and removed")
    beside: str | None = Field(description="the name of a second collection, which `collection=1` asks")


class Health(BaseModel):
    """The server runs."""

    status: Literal["ok"]
