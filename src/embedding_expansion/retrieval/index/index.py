"""The operations of an index, the same on every backend: what comes in is checked here, once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embedding_expansion.core.validation import validates
from embedding_expansion.errors import InvalidInput, InvalidType, StoreError
from embedding_expansion.retrieval.arrays import as_cosine, positive, unit_vectors
from embedding_expansion.retrieval.index.files import ModelFiles
from embedding_expansion.retrieval.index.items import Changes, Item, Match, Row, decoded, encoded, item_of, rows_of
from embedding_expansion.retrieval.index.kinds import Recall
from embedding_expansion.retrieval.index.notes import read_note
from embedding_expansion.retrieval.index.store import OWN_NOTES, Store
from embedding_expansion.retrieval.index.where import Condition, Where, condition

ALONE = b"\x00add"  # the key of `add`; no user's key starts so
MOST = 2**31  # rows that are asked for at once; a database counts no further than 2**63


class Index:
    """Images and their vectors, kept and searched: see `create_index` and `open_index`.

    One process writes at a time, any number read meanwhile, and each operation is seen whole or not at all. An `Index`
    may be used by several threads, one after another.
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
        """Where it is; a password in it is not shown."""
        return self._store.location

    @property
    def dimensions(self) -> int:
        """Of each vector."""
        return self._store.dimensions

    @property
    def read_only(self) -> str | None:
        """Why it may only be read, such as "its disk is read-only"; None where it may be written.

        What another process writes is then seen as far as the files show it here: see the page on indexes.
        """
        return self._store.read_only

    @property
    def asked(self) -> str:
        """The kind that was asked for when it was made, such as "auto"."""
        return str(self._own_note("asked"))

    @property
    def precision(self) -> str:
        """How vectors are stored: "float32" or "float16"."""
        return str(self._own_note("precision"))

    @property
    def kind(self) -> str:
        """How it is searched now: "flat" (exactly), "hnsw" or "ivfpq"."""
        return str(self._own_note("kind"))

    @property
    def reason(self) -> str:
        """Why it is searched so, as a sentence."""
        return str(self._own_note("reason"))

    @property
    def recall(self) -> Recall | None:
        """What the approximate search was measured to find when its structure was built; None if it is exact."""
        found = self._own_note("recall")
        return None if found is None else Recall(**found)

    @validates
    def add(self, items: Iterable[Item], vectors: Any) -> Changes:
        """Adds items; one whose path is there already is replaced and keeps its id.

        Args:
            items: n of them. Of equal paths the last one counts.
            vectors: (n, dimensions). Each is divided by its norm, so that similarities are cosines.

        Returns:
            How many are new, and how many were there but differed.

        Raises:
            InvalidInput: vectors of another shape, with NaN or of zeros; metadata that is no JSON.
            StoreError: another process is writing, or the backend refuses. Nothing has changed then.
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
        """Adds many items in batches, all of which become visible together at the end.

        What was added is on disk after each batch, where no search sees it. If the block fails or the process is
        killed, the index stays as it was, and the next load with the same key goes on from there:

            with index.loading("photos, model 3f2a") as load:
                for batch in batches_without(load.staged):
                    load.add(batch, embed(batch))
            load.changes

        Args:
            key: what is loaded and by which model, in any words; another key is another load.

        Raises:
            StoreError: another process is writing.
        """
        name = encoded(key, "key")
        if not name or name.startswith(b"\x00"):
            raise InvalidInput(f"key is {key!r}; pass a name of what is loaded")
        with self._store.writing():
            load = Loading({decoded(path) for path in self._store.staged(name)}, lambda i, v: self._stage(name, i, v))
            yield load
            load.changes = self._store.publish(name)
            self._store.build(force=False)

    def unfinished(self) -> dict[str, int]:
        """The keys of loads that have not come to their end, with how many items each holds."""
        return {decoded(key): n for key, n in self._store.unfinished().items() if key != ALONE}

    @validates
    def discard(self, key: str) -> None:
        """Forgets what an unfinished load holds."""
        with self._store.writing():
            self._store.discard(encoded(key, "key"))

    @validates
    def search(
        self, vectors: Any, k: int, where: Where | None = None, *, exact: bool = False, thumbnails: bool = False
    ) -> list[list[Match]]:
        """Finds for each vector the k items with the largest cosine similarity.

        Args:
            vectors: (q, dimensions), normalised here.
            k: neighbours; fewer come where fewer items fulfil `where`, never for another reason.
            where: which items may be found, see `condition`.
            exact: compare with all items, whatever the kind.
            thumbnails: bring them along.

        Returns:
            For each query its matches, the closest first, equally close ones by the smaller id. Exact if the kind is
            "flat"; otherwise `recall` says how many of the true ones are found.
        """
        queries = unit_vectors(vectors, self.dimensions)
        wanted = min(positive(k, "k"), MOST)
        found, rows = self._store.search(queries, wanted, condition(where), exact=exact, thumbnails=thumbnails)
        items = {id: item_of(id, row) for id, row in rows.items()}
        return [[Match(items[id], as_cosine(similarity)) for similarity, id in one] for one in found]

    @validates
    def remove(self, where: Where | None = None, *, paths: Iterable[str] | None = None) -> int:
        """Removes items, by a condition or by their paths; returns how many.

        Raises:
            InvalidInput: neither or both are given, or a condition that asks for nothing (`{"path_prefix": ""}` says
                that all items are meant).
        """
        if (where is None) == (paths is None):
            raise InvalidInput("remove takes either where or paths; pass one of them")
        if isinstance(paths, str):
            raise InvalidType("paths is a str; pass a list of paths")
        asked = condition(where) if paths is None else Condition(paths=tuple(encoded(p, "paths") for p in paths))
        if asked.is_empty and asked.prefix is None:
            raise InvalidInput("where asks for nothing, which would remove all items; say {'path_prefix': ''} for that")
        with self._store.writing():
            removed = self._store.remove([asked])
            self._store.build(force=False)
        return removed

    @validates
    def count(self, where: Where | None = None) -> int:
        """How many items there are, or fulfil a condition."""
        return self._store.count(condition(where))

    @validates
    def get(self, id: int) -> Item:
        """One item, with its thumbnail.

        Raises:
            InvalidInput: there is none of this id.
        """
        rows, _ = self._store.read(_possible([id]), thumbnails=True, vectors=False)
        self._check_there([id], rows)
        return item_of(id, rows[id])

    @validates
    def vectors(self, ids: Sequence[int]) -> Float[np.ndarray, "n d"]:
        """The vectors of some items, of unit norm, in the order of the ids.

        Raises:
            InvalidInput: there is no item of one of the ids.
        """
        _, found = self._store.read(_possible(ids), thumbnails=False)
        self._check_there(ids, found)
        return np.array([found[id] for id in ids], np.float32).reshape(len(ids), self.dimensions)

    @validates
    def batches(
        self, where: Where | None = None, *, size: int = 1024, thumbnails: bool = False
    ) -> Iterator[tuple[list[Item], Float[np.ndarray, "n d"]]]:
        """Goes through items and vectors by ascending id, a batch at a time.

        What another process adds or removes meanwhile may or may not be among them.
        """
        for ids, rows, vectors in self._pages(where, size, thumbnails=thumbnails):
            there = [id for id in ids if id in rows and id in vectors]
            found = np.array([vectors[id] for id in there], np.float32).reshape(len(there), self.dimensions)
            yield [item_of(id, rows[id]) for id in there], found

    @validates
    def items(self, where: Where | None = None, *, size: int = 1024, thumbnails: bool = False) -> Iterator[list[Item]]:
        """Goes through items as `batches` does, without their vectors."""
        for ids, rows, _ in self._pages(where, size, thumbnails=thumbnails, vectors=False):
            yield [item_of(id, rows[id]) for id in ids if id in rows]

    def build(self) -> Recall | None:
        """Builds the structure of an approximate kind again and measures it; it is built by itself when it pays."""
        with self._store.writing():
            self._store.build(force=True)
        return self.recall

    @property
    def notes(self) -> dict[str, Any]:
        """What `set_note` has kept: the model's digest, a threshold, whatever is JSON."""
        found = self._store.notes()
        return {name: read_note(found, name, self.location) for name in found if name not in OWN_NOTES}

    @validates
    def set_note(self, name: str, value: Any) -> None:
        """Keeps a value with the index.

        Raises:
            InvalidInput: a value that is no JSON, or a name that the index uses itself.
        """
        text = _note(name, value)
        with self._store.writing():
            self._store.set_note(name, text)

    @property
    def state(self) -> str:
        """A text that is another one whenever items were added, changed or removed, by whichever process."""
        notes = self._store.notes()
        return f"{notes.get('generation')} {notes.get('published')} {self.count()}"

    @property
    def files(self) -> ModelFiles:
        """The files of the model that the vectors come from, kept with the index."""
        return ModelFiles(self._store)

    def close(self) -> None:
        """Ends the connection; nothing is lost."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Index {self.location}>" if self._held else "<Index, closed>"

    def _pages(self, where: Where | None, size: int, **wanted: bool) -> Iterator[tuple[Sequence[int], Any, Any]]:
        asked, size, last = condition(where), min(positive(size, "size"), MOST), 0
        while ids := self._store.ids(asked, last, size):
            yield ids, *self._store.read(ids, **wanted)
            last = ids[-1]

    def _check_there(self, ids: Sequence[int], found: Container[int]) -> None:
        for id in ids:
            if id not in found:
                raise InvalidInput(f"the index {self.location} has no item {id!r}; search again, it may be removed")

    def _own_note(self, name: str) -> Any:
        return read_note(self._store.notes(), name, self.location)

    @validates
    def _stage(self, key: bytes, items: Iterable[Item], vectors: Any) -> None:
        rows, units = _incoming(items, vectors, self.dimensions)
        if rows:
            self._store.stage(key, rows, units)


def _possible(ids: Sequence[int]) -> list[int]:
    """Those that a database can count to; the others are no item's."""
    return [id for id in ids if 0 < id < 2**63]


class Loading:
    """A load that has begun.

    Attributes:
        staged: the paths that are on disk already, of this load or of one with the same key that was broken off.
        changes: what has become visible; None until the block has ended.
    """

    def __init__(self, staged: set[str], stage: Callable[[Iterable[Item], Any], None]) -> None:
        self.staged, self._stage = staged, stage
        self.changes: Changes | None = None

    @validates
    def add(self, items: Iterable[Item], vectors: Any) -> None:
        """Adds a batch, as `Index.add` does, but nobody sees it until the end of the block."""
        batch = list(items)
        self._stage(batch, vectors)
        self.staged.update(item.path for item in batch)


@validates
def _incoming(items: Iterable[Item], vectors: Any, dimensions: int) -> tuple[list[Row], Float[np.ndarray, "n d"]]:
    """The rows to be stored and their unit vectors; of equal paths the last one counts."""
    rows, units = rows_of(items), unit_vectors(vectors, dimensions)
    if len(rows) != len(units):
        raise InvalidInput(f"items has {len(rows)} entries but vectors has {len(units)} rows; pass one row per item")
    places = sorted({row.path: place for place, row in enumerate(rows)}.values())
    return [rows[place] for place in places], units[places]


def _note(name: object, value: Any) -> str:
    """A note's value as JSON.

    Raises:
        InvalidInput: a value that is no JSON, or a name that the index uses itself.
    """
    if name in OWN_NOTES or not isinstance(name, str) or not name.isprintable():
        raise InvalidInput(f"name is {name!r}; pass a printable text, and none of {', '.join(sorted(OWN_NOTES))}")
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the value of {name!r} is no JSON ({error}); pass what JSON can hold") from None
