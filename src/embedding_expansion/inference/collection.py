"""An index and the model that its vectors come from: images in, the closest images of the collection out."""

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

from embedding_expansion.errors import InvalidInput, StoreError
from embedding_expansion.inference.embedder import Embedder, Square
from embedding_expansion.inference.index_model import model_note
from embedding_expansion.inference.manifest import MANIFEST
from embedding_expansion.inference.thresholds import THRESHOLDS, Thresholds, read_thresholds, thresholds_of_json
from embedding_expansion.retrieval.arrays import least_reaching, positive, unit_vectors
from embedding_expansion.retrieval.index import Index, Match, open_index
from embedding_expansion.retrieval.index.where import Where

if TYPE_CHECKING:
    from embedding_expansion.inference.of_vectors import VectorEmbedder
    from embedding_expansion.inference.pixels import ImageLike

#: The note of an index that holds thresholds calibrated on its own items; they come before those of the model.
NOTE = "thresholds"


@dataclass(frozen=True)
class Answer:
    """What was found for one query.

    Attributes:
        matches: the closest first.
        known: whether the collection holds the query's class, by the threshold for "known or unknown" and the closest
            item without query expansion; None where no threshold was calibrated.
        threshold: the similarity from which it does, if one was calibrated.
    """

    matches: list[Match]
    known: bool | None
    threshold: float | None = None


class Collection:
    """A collection of images that is searched by images; `Collection.open` opens one.

    Attributes:
        index: the vectors and what is known of each image.
        embedder: the model; of vectors, where the collection holds those.
        thresholds: what similarity means here, as `thresholds_of` found it.
        flip: whether the collection's vectors have the embedding of each mirror image averaged in.
    """

    def __init__(self, index: Index, embedder: Embedder | VectorEmbedder) -> None:
        if embedder.dimensions != index.dimensions:
            raise InvalidInput(
                f"the model embeds into {embedder.dimensions} dimensions, but {index.location} has "
                f"{index.dimensions}; open the index with the model that it was made with"
            )
        self.index, self.embedder = index, embedder
        model = model_note(index)
        self.flip = model is not None and model.flip
        self.thresholds = thresholds_of(index)

    @classmethod
    def open(cls, location: str | os.PathLike[str], *, device: str = "auto", batch_size: int = 64) -> Collection:
        """Opens what `embex index` made: a folder, or a URL of PostgreSQL.

        Args:
            location: of the index.
            device: "auto", "cpu", "cuda", "cuda:1", ... for the model.
            batch_size: images that go through the model at once.

        Raises:
            StoreError: there is no such index, or it holds no model.
            RunError, InvalidInput: its model cannot be opened.
        """
        index = open_index(location)
        try:
            if holds_vectors(index):
                return cls(index, _vector_model_of(index, device))
            return cls(index, model_of(index, device=device, batch_size=batch_size))
        except BaseException:
            index.close()
            raise

    def embed(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        broken: dict[int, str] | None = None,
        max_pixels: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """The embeddings of images as those of the collection were made; see `Embedder.embed`.

        Raises:
            InvalidInput: the collection holds vectors and no images.
        """
        return self._image_embedder().embed(images, flip=self.flip, broken=broken, max_pixels=max_pixels)

    def embed_squares(self, squares: Sequence[Square]) -> npt.NDArray[np.float32]:
        """The embeddings of what `Embedder.square` made of images; see `Embedder.embed_squares`.

        Raises:
            InvalidInput: the collection holds vectors and no images.
        """
        return self._image_embedder().embed_squares(squares, flip=self.flip)

    def _image_embedder(self) -> Embedder:
        if not isinstance(self.embedder, Embedder):
            raise InvalidInput(f"{self.index.location} holds vectors and no images; pass an .npz or a .parquet")
        return self.embedder

    def embed_rows(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The embeddings of vectors as those of the collection were made; see `VectorEmbedder.embed`.

        Raises:
            InvalidInput: the collection holds images, or vectors of another width.
        """
        if isinstance(self.embedder, Embedder):
            raise InvalidInput(f"{self.index.location} holds images; pass image files")
        return self.embedder.embed(rows)

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
        """Finds for each vector the k closest items.

        Args:
            vectors: (q, d), such as `collection.embed(images)`; normalised here.
            k: neighbours; fewer come where fewer items fulfil `where`.
            qe: query expansion by so many of the neighbours; 0 for none.
            alpha: the exponent of a neighbour's cosine in query expansion, 0 for a plain mean.
            where: which items may be found, as in `Index.search`.
            thumbnails: bring them along.

        Raises:
            InvalidInput, InvalidType: vectors, numbers or a condition that cannot be.
        """
        queries, threshold = unit_vectors(vectors, self.index.dimensions), self._threshold()
        wanted = max(positive(k, "k"), _steps(qe))
        plain = self.index.search(queries, wanted, where, thumbnails=thumbnails and not qe)
        known = [_known(matches, threshold) for matches in plain]
        if qe:
            expanded = [self._expanded(row, found[:qe], alpha) for row, found in zip(queries, plain, strict=True)]
            plain = self.index.search(np.array(expanded), k, where, thumbnails=thumbnails) if expanded else []
        return [Answer(matches[:k], one, threshold) for matches, one in zip(plain, known, strict=True)]

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
        """Finds the k items closest to one of the collection, which is not among them.

        Raises:
            InvalidInput: there is no item of this id.
        """
        (row,), threshold = self.index.vectors([id]), self._threshold()
        wanted = max(positive(k, "k"), _steps(qe)) + 1
        (found,) = self.index.search(row[None], wanted, where, thumbnails=thumbnails and not qe)
        matches = [match for match in found if match.item.id != id]
        known = _known(matches, threshold)
        if qe:
            row = self._expanded(row, matches[:qe], alpha)
            (found,) = self.index.search(row[None], k + 1, where, thumbnails=thumbnails)
            matches = [match for match in found if match.item.id != id]
        return Answer(matches[:k], known, threshold)

    def close(self) -> None:
        """Closes the index."""
        self.index.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _threshold(self) -> float | None:
        """Of this moment: a server is told of new ones while it answers."""
        found = self.thresholds.get("known or unknown")
        return None if found is None else found.value

    def _expanded(self, row: npt.NDArray[np.float32], found: list[Match], alpha: float) -> npt.NDArray[np.float32]:
        """The query with its neighbours mixed in; where they cancel it out, or are gone meanwhile, as it was."""
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


def thresholds_of(index: Index) -> Thresholds:
    """Those calibrated on the items of an index, else those that its model came with."""
    own = index.notes.get(NOTE)
    if own is not None:
        try:
            return thresholds_of_json(own)
        except InvalidInput as error:
            raise StoreError(f"the thresholds of {index.location} cannot be read: {error}") from error
    if THRESHOLDS not in index.files.sizes():
        return {}
    with tempfile.TemporaryDirectory(prefix="embex-model-") as folder:
        index.files.fetch(THRESHOLDS, Path(folder) / THRESHOLDS)
        return read_thresholds(Path(folder))


def model_of(index: Index, *, device: str = "auto", batch_size: int = 64) -> Embedder:
    """The model whose files are kept with an index of images.

    Raises:
        StoreError: the index holds none, or one of vectors.
        RunError, InvalidInput: it cannot be opened.
    """
    if holds_vectors(index):
        raise StoreError(f"{index.location} holds vectors and no images")
    with _files(index) as folder:
        return Embedder.load(folder, device=device, batch_size=batch_size)


def holds_vectors(index: Index) -> bool:
    """Whether the model of an index is one of vectors (see `vector_index.py`).

    Raises:
        StoreError: the index holds no model.
    """
    names = index.files.sizes()
    if not names:
        raise StoreError(f"{index.location} holds no model; make the index with embex index")
    return MANIFEST not in names  # which tells of the preprocessing of images


def _vector_model_of(index: Index, device: str) -> VectorEmbedder:
    from embedding_expansion.inference.of_vectors import VectorEmbedder  # torch

    with _files(index) as folder:
        return VectorEmbedder.load(folder, device=device)


@contextmanager
def _files(index: Index) -> Iterator[Path]:
    """The files of an index's model, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="embex-model-") as folder:
        for name in index.files.sizes():
            index.files.fetch(name, Path(folder) / name)
        yield Path(folder)


def _steps(qe: int) -> int:
    if isinstance(qe, bool) or not isinstance(qe, int) or qe < 0:
        raise InvalidInput(f"qe is {qe!r}; pass how many neighbours expand the query, 0 for none")
    return qe
