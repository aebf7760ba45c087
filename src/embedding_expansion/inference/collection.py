"""A searchable collection: an index together with the model of its vectors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from embedding_expansion.checks import as_whole, as_wholes, validates
from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.inference.embedder import MOST_IN_A_BATCH, Embedder, Square
from embedding_expansion.inference.gallery import known_from, thresholds_of
from embedding_expansion.inference.index_model import model_note
from embedding_expansion.inference.manifest import MANIFEST
from embedding_expansion.retrieval.arrays import least_reaching, unit_vectors
from embedding_expansion.retrieval.index import Index, Match, open_index
from embedding_expansion.retrieval.index.where import Where

if TYPE_CHECKING:
    from embedding_expansion.inference.pixels import ImageLike
    from embedding_expansion.inference.vector_embedder import VectorEmbedder


@dataclass(frozen=True)
class Answer:
    """The result of one query.

    Attributes:
        matches: the matches, the closest first.
        known: whether the best match without query expansion reaches the threshold for "known or unknown"; None if no
            threshold holds for this collection.
        threshold: that threshold, or None.
        reason: why there is no threshold, or why it is that of the model; empty if it was calibrated on the collection.
    """

    matches: list[Match]
    known: bool | None
    threshold: float | None = None
    reason: str = ""


class Collection:
    """A collection of images that can be searched by images. Open one with `Collection.open`.

    Attributes:
        index: the vectors and metadata of the images.
        embedder: the model: an `Embedder`, or a `VectorEmbedder` for a collection of vectors.
        thresholds: the calibrated thresholds of similarity, see `gallery.thresholds_of`.
        known_from: the similarity from which the collection knows a query, at the size that it had when it was opened.
        flip: whether each vector is the average of the embeddings of an image and its mirror image.
    """

    def __init__(self, index: Index, embedder: Embedder | VectorEmbedder) -> None:
        if embedder.dimensions != index.dimensions:
            raise InvalidInput(
                f"the model embeds into {embedder.dimensions} dimensions, but {index.location} has "
                f"{index.dimensions}; open the index with the model that built it"
            )
        self.index, self.embedder = index, embedder
        model = model_note(index)
        self.flip = model is not None and model.flip
        self.refresh(index)

    def refresh(self, index: Index) -> None:
        """Reads the thresholds again from an index, as another process may have calibrated them or added images."""
        self.thresholds = thresholds_of(index)
        self.known_from = known_from(index, self.thresholds)

    @classmethod
    @validates
    def open(cls, location: str | os.PathLike[str], *, device: str = "auto", batch_size: int = 64) -> Collection:
        """Opens an index built by `embex index` together with its model.

        Args:
            location: the folder of the index, or its postgresql:// URL.
            device: the device of the model: "auto", "cpu", "cuda", "cuda:1", ...
            batch_size: the number of images per batch.

        Raises:
            StoreError: there is no such index, or it contains no model.
            RunError, InvalidInput: the model cannot be opened.
        """
        batch_size = as_whole(batch_size, "batch_size", least=1, most=MOST_IN_A_BATCH)
        index = open_index(location)
        try:
            if holds_vectors(index):
                return cls(index, _vector_model_of(index, device))
            return cls(index, model_of(index, device=device, batch_size=batch_size))
        except BaseException:
            index.close()
            raise

    @validates
    def embed(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        broken: dict[int, str] | None = None,
        max_pixels: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Embeds images in the same way as those of the collection; see `Embedder.embed`.

        Raises:
            InvalidInput: the collection holds vectors, not images.
        """
        return self._image_embedder().embed(images, flip=self.flip, broken=broken, max_pixels=max_pixels)

    def embed_squares(self, squares: Sequence[Square]) -> npt.NDArray[np.float32]:
        """Embeds preprocessed images of `Embedder.square`; see `Embedder.embed_squares`.

        Raises:
            InvalidInput: the collection holds vectors, not images.
        """
        return self._image_embedder().embed_squares(squares, flip=self.flip)

    @property
    def takes_text(self) -> bool:
        """Whether the collection can be searched by texts, see `Embedder.takes_text`."""
        return isinstance(self.embedder, Embedder) and self.embedder.takes_text

    def embed_text(self, texts: str | Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeds texts as points among those of the collection; see `Embedder.embed_text`.

        Raises:
            InvalidInput: the collection holds vectors, or its model has no text tower.
        """
        return self._image_embedder().embed_text(texts)

    def _image_embedder(self) -> Embedder:
        if not isinstance(self.embedder, Embedder):
            raise InvalidInput(f"{self.index.location} holds vectors, not images; pass an .npz or .parquet file")
        return self.embedder

    def embed_rows(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Embeds vectors in the same way as those of the collection; see `VectorEmbedder.embed`.

        Raises:
            InvalidInput: the collection holds images, or the vectors have another width.
        """
        if isinstance(self.embedder, Embedder):
            raise InvalidInput(f"{self.index.location} holds images; pass image files")
        return self.embedder.embed(rows)

    @validates
    def search(
        self,
        vectors: npt.NDArray[np.float32],
        k: int = 10,
        *,
        qe: int = 0,
        alpha: float = 3.0,
        where: Where | None = None,
        thumbnails: bool = False,
    ) -> list[Answer]:
        """Finds the k most similar items for each vector.

        Args:
            vectors: (q, d), for example `collection.embed(images)`; normalised by this method.
            k: the number of matches per query. There are fewer if fewer items match `where`.
            qe: the number of neighbours used for query expansion; 0 turns it off.
            alpha: query expansion weighs each neighbour by its cosine similarity to this power; 0 gives a plain mean.
            where: a filter of the items, as in `Index.search`.
            thumbnails: whether to load the thumbnails of the matches.

            Raises:
                InvalidInput, InvalidType: the vectors, the numbers or the filter are invalid.
        """
        queries, limit = unit_vectors(vectors, self.index.dimensions), self.known_from
        k, qe = as_whole(k, "k", least=1), as_whole(qe, "qe", least=0)
        wanted = max(k, qe)
        plain = self.index.search(queries, wanted, where, thumbnails=thumbnails and not qe)
        known = [_known(matches, limit.value) for matches in plain]
        if qe:
            expanded = [self._expanded(row, found[:qe], alpha) for row, found in zip(queries, plain, strict=True)]
            plain = self.index.search(np.array(expanded), k, where, thumbnails=thumbnails) if expanded else []
        return [Answer(matches[:k], one, limit.value, limit.reason) for matches, one in zip(plain, known, strict=True)]

    @validates
    def neighbours(
        self,
        id: int,
        k: int = 10,
        *,
        qe: int = 0,
        alpha: float = 3.0,
        where: Where | None = None,
        thumbnails: bool = False,
    ) -> Answer:
        """Finds the k items that are most similar to an item of the collection, without that item.

        Raises:
            InvalidInput: no item has this id.
        """
        none, ids = np.zeros((0, self.index.dimensions), np.float32), [as_whole(id, "id")]
        return self.combined(none, ids, k, qe=qe, alpha=alpha, where=where, thumbnails=thumbnails)

    @validates
    def combined(
        self,
        vectors: npt.NDArray[np.float32],
        ids: Sequence[int],
        k: int = 10,
        *,
        qe: int = 0,
        alpha: float = 3.0,
        where: Where | None = None,
        thumbnails: bool = False,
    ) -> Answer:
        """Finds the k items that are most similar to several images at once, without those of them that are items.

        The query is the mean of their unit vectors. `known` of the answer is None for more than one image, because
        thresholds are measured with single images.

        Args:
            vectors: (q, d), for example `collection.embed(images)`; q may be 0.
            ids: items of the collection.
            k: as in `search`, like the others below.
            qe: the number of neighbours used for query expansion.
            alpha: the power of their weights.
            where: a filter of the items.
            thumbnails: whether to load the thumbnails of the matches.

        Raises:
            InvalidInput: there is neither a vector nor an id, no item has one of the ids, or the images cancel out.
        """
        k, qe = as_whole(k, "k", least=1), as_whole(qe, "qe", least=0)
        ids, limit = as_wholes(ids, "ids"), self.known_from
        asked = set(ids)
        rows = np.concatenate([unit_vectors(vectors, self.index.dimensions), self.index.vectors(ids)])
        if not len(rows):
            raise InvalidInput("the query has no image; pass at least one")
        row = rows[0] if len(rows) == 1 else rows.mean(axis=0)
        if np.linalg.norm(row) < 1e-6:
            raise InvalidInput("the images of the query are opposites of each other and cancel out; pass others")
        wanted = max(k, qe) + len(asked)
        (found,) = self.index.search(row[None], wanted, where, thumbnails=thumbnails and not qe)
        matches = [match for match in found if match.item.id not in asked]
        known = _known(matches, limit.value if len(rows) == 1 else None)
        if qe:
            row = self._expanded(row, matches[:qe], alpha)
            (found,) = self.index.search(row[None], k + len(asked), where, thumbnails=thumbnails)
            matches = [match for match in found if match.item.id not in asked]
        return Answer(matches[:k], known, limit.value, limit.reason)

    def close(self) -> None:
        """Closes the index."""
        self.index.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _expanded(self, row: npt.NDArray[np.float32], found: list[Match], alpha: float) -> npt.NDArray[np.float32]:
        """The query averaged with its neighbours, or the plain query if they cancel out or were removed meanwhile."""
        from embedding_expansion.retrieval.rerank.query_expansion import alpha_query_expansion  # torch

        ids = [match.item.id for match in found if match.item.id is not None]
        if not ids:
            return row
        try:
            neighbours = self.index.vectors(ids)
        except InvalidInput:  # another process has removed one
            return row
        mixed = alpha_query_expansion(row[None], neighbours, len(ids), alpha)[0].numpy()
        return mixed if mixed.any() else row


def _known(matches: list[Match], threshold: float | None) -> bool | None:
    return None if threshold is None else bool(matches) and matches[0].similarity >= least_reaching(threshold)


def model_of(index: Index, *, device: str = "auto", batch_size: int = 64) -> Embedder:
    """Loads the model stored in an index of images.

    Raises:
        StoreError: the index contains no model, or a model of vectors.
        RunError, InvalidInput: the model cannot be opened.
    """
    if holds_vectors(index):
        raise StoreError(f"{index.location} holds vectors, not images; pass an index of images")
    with _files(index) as folder:
        return Embedder.load(folder, device=device, batch_size=batch_size)


def holds_vectors(index: Index) -> bool:
    """Whether an index holds vectors instead of images (see `vector_index.py`).

    Raises:
        StoreError: the index contains no model.
    """
    names = index.files.sizes()
    if not names:
        raise StoreError(f"{index.location} contains no model; build the index with embex index")
    return MANIFEST not in names  # only a model of images has a manifest


def _vector_model_of(index: Index, device: str) -> VectorEmbedder:
    from embedding_expansion.inference.vector_embedder import VectorEmbedder  # torch

    with _files(index) as folder:
        return VectorEmbedder.load(folder, device=device)


@contextmanager
def _files(index: Index) -> Iterator[Path]:
    """The files of an index's model, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="embex-model-") as folder:
        for name in index.files.sizes():
            index.files.fetch(name, Path(folder) / name)
        yield Path(folder)
