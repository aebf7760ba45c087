"""The operations of an index, the same on every backend. They check their arguments; the backends do not."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embedding_expansion.checks import as_whole, as_wholes, validates
from embedding_expansion.errors import InvalidInput, InvalidType, StoreError
from embedding_expansion.retrieval.arrays import as_cosine, unit_vectors
from embedding_expansion.retrieval.index.files import ModelFiles
from embedding_expansion.retrieval.index.items import Changes, Item, Match, Row, decoded, encoded, item_of, rows_of
from embedding_expansion.retrieval.index.kinds import Recall
from embedding_expansion.retrieval.index.notes import read_note
from embedding_expansion.retrieval.index.store import OWN_NOTES, Store
from embedding_expansion.retrieval.index.where import Condition, Where, condition

ALONE = b"\x00add"  # the key under which `add` stages; keys of callers cannot start with a NUL
MOST = 2**31  # the most rows in one request; a database counts up to 2**63


class Index:
    """Stores and searches images and their vectors. Make one with `create_index`, open one with `open_index`.

    One process can write at a time while any number of processes read. Each operation is atomic. Several threads may
    use an `Index`; their calls run one after another.
    """

    def __init__(self, store: Store) -> None:
        self._held: Store | None = store

    @property
    def _store(self) -> Store:
        if self._held is None:
            raise StoreError("the index is closed; open it again")
        return self._held

    @property
    def location(self) -> str:
        """The folder or URL of the index, without the password."""
        return self._store.location

    @property
    def dimensions(self) -> int:
        """The number of dimensions of each vector."""
        return self._store.dimensions

    @property
    def read_only(self) -> str | None:
        """Why the index can only be read, such as "its disk is read-only"; None if it can be written.

        See the page on indexes for when a read-only index sees the changes of another process.
        """
        return self._store.read_only

    @property
    def asked(self) -> str:
        """The kind that was requested when the index was made, such as "auto"."""
        return str(self._own_note("asked"))

    @property
    def precision(self) -> str:
        """The type in which vectors are stored: "float32" or "float16"."""
        return str(self._own_note("precision"))

    @property
    def kind(self) -> str:
        """How the index is searched now: "flat" (exactly), "hnsw" or "ivfpq"."""
        return str(self._own_note("kind"))

    @property
    def reason(self) -> str:
        """Why the index is searched by this kind, as a sentence."""
        return str(self._own_note("reason"))

    @property
    def recall(self) -> Recall | None:
        """The recall of the approximate search, measured when its structure was built; None if the search is exact."""
        found = self._own_note("recall")
        return None if found is None else Recall(**found)

    @validates
    def add(self, items: Iterable[Item], vectors: Any) -> Changes:
        """Adds items. An item whose path is already in the index is replaced and keeps its id.

        Args:
            items: n items. Of items with equal paths the last one counts.
            vectors: (n, dimensions), of any norm; they are normalised, so that similarities are cosines.

        Returns:
            How many items are new, and how many existing items differed and were replaced.

        Raises:
            InvalidInput: vectors of another shape, with NaN or of zeros, or metadata that JSON cannot represent.
            StoreError: another process is writing, or the backend refuses. The index has not changed then.
        """
        with self._store.writing():
            self._store.discard(ALONE)
            try:
                self._stage(ALONE, items, vectors)
                changes = self._store.publish(ALONE)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._store.discard(ALONE)
                raise
            self._store.build(force=False)
        return changes

    @validates
    @contextlib.contextmanager
    def loading(self, key: str) -> Iterator[Loading]:
        """Adds many items in batches, which become visible together at the end of the block.

        Each batch is written to disk at once, but searches do not see it. If the block fails or the process is killed,
        the index does not change, and the next load with the same key continues with what is on disk:

            with index.loading("photos, model 3f2a") as load:
                for batch in batches_without(load.staged):
                    load.add(batch, embed(batch))
            load.changes

        Args:
            key: any text that names what is loaded and by which model. Another key starts another load.

        Raises:
            StoreError: another process is writing.
        """
        name = encoded(key, "key")
        if not name or name.startswith(b"\x00"):
            raise InvalidInput(f"key is {key!r}; pass a text that is not empty and does not start with a NUL")
        with self._store.writing():
            load = Loading({decoded(path) for path in self._store.staged(name)}, lambda i, v: self._stage(name, i, v))
            yield load
            load.changes = self._store.publish(name)
            self._store.build(force=False)

    def unfinished(self) -> dict[str, int]:
        """The keys of unfinished loads, with the number of items that each has staged."""
        return {decoded(key): n for key, n in self._store.unfinished().items() if key != ALONE}

    @validates
    def discard(self, key: str) -> None:
        """Deletes what an unfinished load has staged."""
        with self._store.writing():
            self._store.discard(encoded(key, "key"))

    @validates
    def search(
        self, vectors: Any, k: int, where: Where | None = None, *, exact: bool = False, thumbnails: bool = False
    ) -> list[list[Match]]:
        """Finds for each vector the k items with the largest cosine similarity.

        Args:
            vectors: (q, dimensions), of any norm.
            k: the number of matches per query; there are fewer only if fewer items fulfil `where`.
            where: a condition on the items, see `condition`; None for all items.
            exact: whether to compare with all items, whatever the kind.
            thumbnails: whether to return the thumbnails of the items.

        Returns:
            For each query its matches, the most similar first, equally similar ones by the smaller id. They are exact
            if the kind is "flat"; otherwise `recall` is the share of the true neighbours that is found.
        """
        queries = unit_vectors(vectors, self.dimensions)
        wanted = min(as_whole(k, "k", least=1), MOST)
        found, rows = self._store.search(queries, wanted, condition(where), exact=exact, thumbnails=thumbnails)
        items = {id: item_of(id, row) for id, row in rows.items()}
        return [[Match(items[id], as_cosine(similarity)) for similarity, id in one] for one in found]

    @validates
    def remove(self, where: Where | None = None, *, paths: Iterable[str] | None = None) -> int:
        """Removes the items that fulfil a condition, or that have given paths, and returns how many.

        Raises:
            InvalidInput: neither or both are given, or an empty condition; to remove all items, pass
                `{"path_prefix": ""}`.
        """
        if (where is None) == (paths is None):
            raise InvalidInput("remove takes either where or paths; pass one of them")
        if isinstance(paths, str):
            raise InvalidType("paths is a str; pass a list of paths")
        asked = condition(where) if paths is None else Condition(paths=tuple(encoded(p, "paths") for p in paths))
        if asked.is_empty and asked.prefix is None:
            raise InvalidInput(
                "where is empty, which would remove all items; pass {'path_prefix': ''} if you want to remove them all"
            )
        with self._store.writing():
            removed = self._store.remove([asked])
            self._store.build(force=False)
        return removed

    @validates
    def count(self, where: Where | None = None) -> int:
        """Counts all items, or those that fulfil a condition."""
        return self._store.count(condition(where))

    @validates
    def get(self, id: int) -> Item:
        """Returns one item with its thumbnail.

        Raises:
            InvalidInput: no item has this id.
        """
        id = as_whole(id, "id")
        rows, _ = self._store.read(_possible([id]), thumbnails=True, vectors=False)
        self._check_there([id], rows)
        return item_of(id, rows[id])

    @validates
    def vectors(self, ids: Sequence[int]) -> Float[np.ndarray, "n d"]:
        """Returns the vectors of some items, of unit norm, in the order of the ids.

        Raises:
            InvalidInput: no item has one of the ids.
        """
        wanted = as_wholes(ids, "ids")
        _, found = self._store.read(_possible(wanted), thumbnails=False)
        self._check_there(wanted, found)
        return np.array([found[id] for id in wanted], np.float32).reshape(len(wanted), self.dimensions)

    @validates
    def batches(
        self, where: Where | None = None, *, size: int = 1024, thumbnails: bool = False
    ) -> Iterator[tuple[list[Item], Float[np.ndarray, "n d"]]]:
        """Iterates over items and their vectors in batches, by ascending id.

        Items that another process adds or removes in the meantime may be included or missing.
        """
        for ids, rows, vectors in self._pages(where, size, thumbnails=thumbnails):
            there = [id for id in ids if id in rows and id in vectors]
            found = np.array([vectors[id] for id in there], np.float32).reshape(len(there), self.dimensions)
            yield [item_of(id, rows[id]) for id in there], found

    @validates
    def items(self, where: Where | None = None, *, size: int = 1024, thumbnails: bool = False) -> Iterator[list[Item]]:
        """Iterates over items as `batches` does, without their vectors."""
        for ids, rows, _ in self._pages(where, size, thumbnails=thumbnails, vectors=False):
            yield [item_of(id, rows[id]) for id in ids if id in rows]

    @validates
    def first(self, where: Where | None = None, *, after: int = 0, count: int = 100) -> list[Item]:
        """Returns the first items whose id is larger than `after`, by ascending id, without thumbnails and vectors.

        To go through the items page by page, pass the last id of a page as `after` of the next.
        """
        after, count = as_whole(after, "after", least=0), min(as_whole(count, "count", least=1), MOST)
        ids = self._store.ids(condition(where), min(after, 2**63 - 1), count)
        rows, _ = self._store.read(ids, thumbnails=False, vectors=False)
        return [item_of(id, rows[id]) for id in ids if id in rows]

    def build(self) -> Recall | None:
        """Rebuilds the structure of an approximate kind and measures its recall.

        Adding and removing items rebuild it automatically when that pays.
        """
        with self._store.writing():
            self._store.build(force=True)
        return self.recall

    @property
    def notes(self) -> dict[str, Any]:
        """The values that `set_note` stored, such as the digest of the model or a threshold."""
        found = self._store.notes()
        return {name: read_note(found, name, self.location) for name in found if name not in OWN_NOTES}

    @validates
    def set_note(self, name: str, value: Any) -> None:
        """Stores a value with the index.

        Raises:
            InvalidInput: a value that JSON cannot represent, or a name that the index uses itself.
        """
        text = _note(name, value)
        with self._store.writing():
            self._store.set_note(name, text)

    @property
    def state(self) -> str:
        """A text that changes whenever any process adds, changes or removes items."""
        notes = self._store.notes()
        return f"{notes.get('generation')} {notes.get('published')} {self.count()}"

    @property
    def files(self) -> ModelFiles:
        """The files of the model that computed the vectors, stored with the index."""
        return ModelFiles(self._store)

    def close(self) -> None:
        """Closes the index; a closed index cannot be used any more."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Index {self.location}>" if self._held else "<Index, closed>"

    @validates
    def _pages(self, where: Where | None, size: int, **wanted: bool) -> Iterator[tuple[Sequence[int], Any, Any]]:
        asked, size, last = condition(where), min(as_whole(size, "size", least=1), MOST), 0
        while ids := self._store.ids(asked, last, size):
            yield ids, *self._store.read(ids, **wanted)
            last = ids[-1]

    def _check_there(self, ids: Sequence[int], found: Container[int]) -> None:
        for id in ids:
            if id not in found:
                raise InvalidInput(
                    f"the index {self.location} has no item {id!r}; search again, since it may have been removed"
                )

    def _own_note(self, name: str) -> Any:
        return read_note(self._store.notes(), name, self.location)

    @validates
    def _stage(self, key: bytes, items: Iterable[Item], vectors: Any) -> None:
        rows, units = _incoming(items, vectors, self.dimensions)
        if rows:
            self._store.stage(key, rows, units)


def _possible(ids: Sequence[int]) -> list[int]:
    """The ids that a database can hold; no item has another one."""
    return [id for id in ids if 0 < id < 2**63]


class Loading:
    """A load in progress, as `Index.loading` yields it.

    Attributes:
        staged: the paths that are already on disk, from this load or from an unfinished one with the same key.
        changes: how many items the load added and replaced; None until the block has ended.
    """

    def __init__(self, staged: set[str], stage: Callable[[Iterable[Item], Any], None]) -> None:
        self.staged, self._stage = staged, stage
        self.changes: Changes | None = None

    @validates
    def add(self, items: Iterable[Item], vectors: Any) -> None:
        """Adds a batch as `Index.add` does; searches see it only after the end of the block."""
        batch = list(items)
        self._stage(batch, vectors)
        self.staged.update(item.path for item in batch)


@validates
def _incoming(items: Iterable[Item], vectors: Any, dimensions: int) -> tuple[list[Row], Float[np.ndarray, "n d"]]:
    """The rows to store and their unit vectors; of items with equal paths the last one counts."""
    rows, units = rows_of(items), unit_vectors(vectors, dimensions)
    if len(rows) != len(units):
        raise InvalidInput(f"items has {len(rows)} entries but vectors has {len(units)} rows; pass one row per item")
    kept = sorted({row.path: position for position, row in enumerate(rows)}.values())
    return [rows[position] for position in kept], units[kept]


def _note(name: object, value: Any) -> str:
    """Checks the name of a note and converts its value to JSON.

    Raises:
        InvalidInput: a value that JSON cannot represent, or a name that the index uses itself.
    """
    if name in OWN_NOTES or not isinstance(name, str) or not name.isprintable():
        raise InvalidInput(f"name is {name!r}; pass a printable text other than {', '.join(sorted(OWN_NOTES))}")
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the value of {name!r} cannot be stored as JSON ({error}); pass a value that JSON can represent"
        ) from None
