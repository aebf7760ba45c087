"""What the API says, as types: FastAPI checks answers against them and writes the OpenAPI schema from them."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, Field

from embedding_expansion.app.serve.landscape import Landscape, State
from embedding_expansion.retrieval.index import Item, Match

#: Images that stand for a cluster.
EXAMPLES = 4

_NO_TEXT = re.compile("[\ud800-\udfff]")


def shown(text: str) -> str:
    """A text that JSON can hold: what of a file's name is no UTF-8 becomes a question mark in a box."""
    return _NO_TEXT.sub("\ufffd", text)


class Problem(BaseModel):
    """Why a request has no answer, in one sentence."""

    detail: str


class ItemModel(BaseModel):
    """An image of the collection."""

    id: int
    path: str
    label: str | None
    width: int | None = Field(description="of the original, in pixels, where it is known")
    height: int | None
    thumbnail: str = Field(description="where its small picture is: a path on this server")

    @classmethod
    def of(cls, item: Item, root: str) -> ItemModel:
        """The item as it is shown by a server whose addresses begin with `root`."""
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
    """An image, with all that is known of it."""

    metadata: dict[str, Any]

    @classmethod
    def of_item(cls, item: Item, root: str) -> ItemDetail:
        """The item as it is shown."""
        metadata = json.loads(shown(json.dumps(dict(item.metadata), ensure_ascii=False)))
        return cls(**ItemModel.of(item, root).model_dump(), metadata=metadata)


class MatchModel(ItemModel):
    """An image that was found."""

    similarity: float = Field(description="the cosine to the query: larger is closer, 1 at most")

    @classmethod
    def of_match(cls, match: Match, root: str) -> MatchModel:
        """The match as it is shown."""
        return cls(**ItemModel.of(match.item, root).model_dump(), similarity=match.similarity)


class AnswerModel(BaseModel):
    """What was found, the closest first."""

    matches: list[MatchModel]
    known: bool | None = Field(
        description="whether the collection holds the query's class, by the calibrated threshold; null without one"
    )
    threshold: float | None = Field(description="the similarity from which it does")


class Samples(BaseModel):
    """Some images of the collection, drawn at random."""

    items: list[ItemModel]


class MapModel(BaseModel):
    """The collection in the plane: entry i of each list is one image. Places are across and up, from 0 to 1."""

    state: State
    version: str = Field(description="of the index that it is a map of")
    method: Literal["PCA", "t-SNE"] | None
    total: int = Field(description="images of the collection; the map holds a random part of a large one")
    ids: list[int]
    x: list[float]
    y: list[float]
    labels: list[str] = Field(description="the names that `label` counts from 0, the most frequent first")
    label: list[int] = Field(description="-1 is no label")
    cluster: list[int]

    @classmethod
    def of(cls, landscape: Landscape) -> MapModel:
        """The map as it is drawn."""
        counts = Counter(item.label for item in landscape.items if item.label is not None)
        position = {label: place for place, (label, _) in enumerate(counts.most_common())}
        return cls(
            state=landscape.state,
            version=landscape.version,
            method=landscape.method,
            total=landscape.total,
            ids=[item.id or 0 for item in landscape.items],
            x=landscape.places[:, 0].round(4).tolist(),
            y=landscape.places[:, 1].round(4).tolist(),
            labels=[shown(label) for label in position],
            label=[position.get(item.label, -1) if item.label is not None else -1 for item in landscape.items],
            cluster=landscape.cluster.tolist(),
        )


class ClusterModel(BaseModel):
    """Images that lie together."""

    id: int
    size: int
    label: str | None = Field(description="its most frequent label")
    share: float = Field(description="of its images that have this label")
    examples: list[ItemModel] = Field(description="the ones closest to its centre")

    @classmethod
    def of_cluster(cls, landscape: Landscape, cluster: int, root: str) -> ClusterModel:
        """One of the landscape's."""
        members = [landscape.items[place] for place in landscape.members(cluster)]
        counts = Counter(item.label for item in members if item.label is not None)
        label, count = counts.most_common(1)[0] if counts else (None, 0)
        return cls(
            id=cluster,
            size=len(members),
            label=None if label is None else shown(label),
            share=count / len(members),
            examples=[ItemModel.of(item, root) for item in members[:EXAMPLES]],
        )


class Clusters(BaseModel):
    """The clusters, the largest first."""

    state: State
    total: int
    grouped: int = Field(description="images in the clusters: all, or a random part of a large collection")
    clusters: list[ClusterModel]

    @classmethod
    def of(cls, landscape: Landscape, root: str) -> Clusters:
        """All clusters."""
        return cls(
            state=landscape.state,
            total=landscape.total,
            grouped=len(landscape.items),
            clusters=[ClusterModel.of_cluster(landscape, c, root) for c in range(landscape.clusters)],
        )


class ClusterItems(BaseModel):
    """The images of one cluster, the closest to its centre first."""

    id: int
    size: int
    label: str | None
    items: list[MatchModel] = Field(description="their similarity is that to the centre of the cluster")

    @classmethod
    def of(cls, landscape: Landscape, cluster: int, count: int, root: str) -> ClusterItems:
        """One of the landscape's, with its first items."""
        places = landscape.members(cluster)
        chosen = [Match(landscape.items[p], float(landscape.closeness[p])) for p in places[:count]]
        return cls(
            id=cluster,
            size=len(places),
            label=ClusterModel.of_cluster(landscape, cluster, root).label,
            items=[MatchModel.of_match(match, root) for match in chosen],
        )


class LabelCount(BaseModel):
    """How many images have a label."""

    label: str
    count: int


class ModelFacts(BaseModel):
    """The model, as model.json describes it."""

    backbone: str | None
    data: str | None = Field(description="what it was trained on")
    loss: str | None
    device: str


class About(BaseModel):
    """What is served."""

    name: str
    version: str
    count: int
    dimensions: int
    kind: str
    reason: str
    recall: float | None
    model: ModelFacts
    threshold: float | None = Field(description="the similarity from which an image counts as known")
    labels: list[LabelCount] = Field(description="the most frequent ones, 2,000 at most")
    max_bytes: int
    max_pixels: int
    formats: list[str] = Field(description="of images that are taken")
    takes_images: bool = Field(description="false for a collection of vectors, which is searched from its items only")


class Health(BaseModel):
    """That the server answers."""

    status: Literal["ok"]
