"""The collection behind the API: access to the index is serialised, images are embedded in batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedding_expansion import __version__
from embedding_expansion.app.serve import models
from embedding_expansion.app.serve.batching import Batcher, Row
from embedding_expansion.app.serve.collection_map import CollectionMap, version_of
from embedding_expansion.app.serve.decoders import Decoders
from embedding_expansion.app.serve.editing import Editor
from embedding_expansion.app.serve.lookup import items_of
from embedding_expansion.app.serve.metrics import Metrics
from embedding_expansion.app.serve.settings import Settings
from embedding_expansion.app.serve.views import Views
from embedding_expansion.app.serve.watching import IndexWatcher
from embedding_expansion.errors import InvalidInput
from embedding_expansion.inference.collection import Answer, Collection
from embedding_expansion.inference.embedder import Embedder, Square
from embedding_expansion.retrieval.index import Item
from embedding_expansion.retrieval.index.where import Where

#: First bytes of thumbnails, and their media types.
PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"GIF8": "image/gif"}


@dataclass(frozen=True)
class Asked:
    """What is asked of a search: `k` matches after the first `offset`, and how they are found."""

    k: int
    offset: int
    qe: int
    alpha: float
    where: Where | None

    @property
    def count(self) -> int:
        """How many matches have to be found."""
        return self.offset + self.k

    def options(self) -> dict[str, Any]:
        """The options of the search."""
        return {"qe": self.qe, "alpha": self.alpha, "where": self.where}

    def page(self, answer: Answer) -> Answer:
        """The answer without the first matches."""
        return replace(answer, matches=answer.matches[self.offset :])


class Service:
    """Answers the requests of the API.

    A lock serialises access to the index; a search takes milliseconds. Only the batcher's thread uses the model, other
    processes decode the images, and the map has its own connection to the index.
    """

    #: A second collection, which the page shows beside this one; None for none.
    beside: Service | None = None

    def __init__(self, collection: Collection, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self._collection = collection
        self._index_is_free, self._text_is_free = threading.Lock(), threading.Lock()
        self._decoders = (
            Decoders(collection.embedder.preprocessing, settings) if isinstance(collection.embedder, Embedder) else None
        )
        self.batcher = Batcher[Square](
            self._embed, batch_size=settings.batch_size, places=settings.queue, observed=self.metrics.embedded
        )
        self._watcher = IndexWatcher(settings.index, collection.refresh)
        self.views = Views(settings.index)
        self.editor = Editor(collection.index, self._index_is_free, settings.uploads_folder) if settings.edit else None

    @classmethod
    @contextmanager
    def open(cls, settings: Settings) -> Iterator[Service]:
        """Opens the index and its model, and closes them at the end of the block.

        Raises:
            StoreError, RunError, InvalidInput: the index or the model cannot be opened.
        """
        with Collection.open(settings.index, device=settings.device, batch_size=settings.batch_size) as collection:
            if settings.edit and collection.index.read_only is not None:
                raise InvalidInput(f"--edit needs an index that can be written ({collection.index.read_only})")
            service = cls(collection, settings)
            with ExitStack() as stack:
                stack.callback(service._watcher.stop)
                stack.callback(service.batcher.stop)
                if service._decoders is not None:
                    stack.callback(service._decoders.stop)
                if settings.beside is not None:
                    other = replace(settings, index=settings.beside, beside=None, edit=False)
                    service.beside = stack.enter_context(cls.open(other))
                yield service

    @property
    def name(self) -> str:
        """The name of the collection."""
        return models.shown(_name(self._collection.index.location))

    @property
    def collection_map(self) -> CollectionMap:
        """The most recent map of the collection."""
        return self._watcher.collection_map

    @property
    def takes_images(self) -> bool:
        """Whether the collection can be searched by an image; False for a collection of vectors."""
        return self._decoders is not None

    @property
    def decoders(self) -> Decoders:
        """The processes that decode uploads.

        Raises:
            InvalidInput: the collection holds vectors.
        """
        if self._decoders is None:
            raise InvalidInput("this collection holds vectors, not images; ask for the neighbours of its items")
        return self._decoders

    @property
    def read_only(self) -> str | None:
        """The reason why the index is read-only, or None; see `Index.read_only`."""
        return self._collection.index.read_only

    def count(self) -> int:
        """Number of images in the index."""
        with self._index_is_free:
            return self._collection.index.count()

    def search(self, row: Row, asked: Asked) -> Answer:
        """Finds the images that are most similar to an embedding."""
        with self._index_is_free:
            options = asked.options()
            return asked.page(self._collection.search(row[None], asked.count, **options)[0])

    def search_text(self, text: str, asked: Asked) -> Answer:
        """Finds the images that are most similar to a text. Thresholds do not apply, as images set them.

        Raises:
            InvalidInput: the model has no text tower.
        """
        with self._text_is_free:
            (row,) = self._collection.embed_text(text)
        return replace(self.search(row, asked), known=None, threshold=None, reason="")

    def combined(self, vectors: Sequence[Sequence[float]], ids: Sequence[int], asked: Asked) -> Answer:
        """Finds the images that are most similar to several vectors and images of the collection, without the latter.

        Raises:
            NoItem: no image has one of the ids.
            InvalidInput: there is neither an image nor a vector, or a vector cannot be used.
        """
        dimensions = self._collection.index.dimensions
        if any(len(vector) != dimensions for vector in vectors):
            raise InvalidInput(f"a vector of the query does not have {dimensions} numbers; pass those of /api/embed")
        rows = np.array(vectors, np.float32).reshape(len(vectors), dimensions)
        with self._index_is_free:
            items_of(self._collection.index, ids)
            return asked.page(self._collection.combined(rows, list(ids), asked.count, **asked.options()))

    def neighbours(self, id: int, asked: Asked) -> Answer:
        """Finds the images that are most similar to one of the collection."""
        with self._index_is_free:
            return asked.page(self._collection.neighbours(id, asked.count, **asked.options()))

    def browse(self, where: Where | None, after: int, count: int) -> tuple[int, list[Item]]:
        """How many images fulfil a condition, and the first of them whose id is larger than `after`."""
        with self._index_is_free:
            index = self._collection.index
            return index.count(where), index.first(where, after=after, count=count)

    def items(self, ids: Sequence[int]) -> list[Item]:
        """Images of the collection, in the order of their ids in the request.

        Raises:
            NoItem: no image has one of the ids.
        """
        with self._index_is_free:
            return items_of(self._collection.index, ids)

    def version(self) -> str:
        """Identifies the state of the index."""
        with self._index_is_free:
            return version_of(self._collection.index)

    def item(self, id: int) -> Item:
        """Returns one image with its thumbnail.

        Raises:
            NoItem: no image has this id.
        """
        with self._index_is_free:
            (item,) = items_of(self._collection.index, [id])
            return item

    def samples(self, count: int, seed: int | None) -> list[Item]:
        """Returns random images of the map, or the first images of the index while there is no map yet."""
        items = self.collection_map.items
        if not items:
            with self._index_is_free:
                items, _ = next(self._collection.index.batches(size=count), ([], None))
        chosen = np.random.default_rng(seed).choice(len(items), min(count, len(items)), replace=False)
        return [items[place] for place in chosen]

    def about(self) -> models.About:
        """Describes the collection, the model and the limits."""
        with self._index_is_free:
            index, facets = self._collection.index, self.collection_map.facets
            known = self._collection.known_from
            described = self._collection.embedder.describe()
            recall = index.recall
            return models.About(
                name=self.name,
                version=__version__,
                count=index.count(),
                dimensions=index.dimensions,
                kind=index.kind,
                reason=index.reason,
                recall=recall.value if recall else None,
                model=models.ModelFacts(
                    backbone=_described(described, "model", "backbone"),
                    data=_described(described, "training", "data"),
                    loss=_described(described, "training", "loss", "name"),
                    device=str(described["device"]),
                ),
                threshold=known.value,
                threshold_reason=known.reason,
                labels=models.LabelList.of(facets.labels.most_common(models.MOST_LABELS)).labels,
                number_of_labels=len(facets.labels),
                max_bytes=self.settings.max_bytes,
                max_pixels=self.settings.max_pixels,
                formats=list(self.settings.formats),
                takes_images=self.takes_images,
                takes_text=self._collection.takes_text,
                originals=self.settings.originals and self.takes_images,
                can_edit=self.editor is not None,
                beside=None if self.beside is None else self.beside.name,
            )

    def _embed(self, squares: Sequence[Square]) -> list[Row | Exception]:
        """Embeds a batch. Only the batcher's thread calls this."""
        return list(self._collection.embed_squares(squares))


def picture_type(content: bytes) -> str | None:
    """The media type of a thumbnail, by its first bytes; None if they are not those of an image."""
    return next((kind for start, kind in PICTURES.items() if content.startswith(start)), None)


def _described(described: Mapping[str, Any], *keys: str) -> str | None:
    """An entry of model.json as text, or None if it is missing."""
    found: Any = described
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else str(found)


def _name(location: str) -> str:
    """The folder's name, or the name of an index in PostgreSQL without the address of the database."""
    if "://" in location:
        return location.partition("index=")[2].partition("&")[0] or "default"
    return Path(location).resolve().name
