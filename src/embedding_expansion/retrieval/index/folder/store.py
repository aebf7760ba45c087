"""The backend of an index in a folder."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from embedding_expansion.errors import StoreError
from embedding_expansion.files import replacing
from embedding_expansion.retrieval.arrays import Neighbours
from embedding_expansion.retrieval.index.folder import database as db
from embedding_expansion.retrieval.index.folder import statements
from embedding_expansion.retrieval.index.folder import structure as structures
from embedding_expansion.retrieval.index.folder.access import opened
from embedding_expansion.retrieval.index.folder.searching import scan, search
from embedding_expansion.retrieval.index.folder.snapshot import Snapshot, StoredVectors
from embedding_expansion.retrieval.index.folder.statements import clause
from embedding_expansion.retrieval.index.items import Changes, Row
from embedding_expansion.retrieval.index.kinds import Choice, choose, measure, sample
from embedding_expansion.retrieval.index.notes import read_note
from embedding_expansion.retrieval.index.where import Condition

# The structure is rebuilt when this share of the rows is missing from it or was removed since.
STALE_SHARE = 0.2


class FolderStore:
    """A `Store` with rows in SQLite and vectors in memory or in a structure of faiss; `Store` documents the methods."""

    def __init__(self, folder: Path) -> None:
        self.location, self._folder = str(folder), folder
        self._guard, self._depth = threading.RLock(), 0
        self._open()

    def _open(self) -> None:
        self._access = opened(self._folder)
        self._database = self._access.database
        notes = self.notes()
        self.dimensions: int = read_note(notes, "dimensions", self.location)
        self._asked: str = read_note(notes, "asked", self.location)
        self._vectors = StoredVectors(self._database, self.dimensions, read_note(notes, "precision", self.location))
        self._snapshot = Snapshot(self._folder, self._database, self._vectors)

    @property
    def read_only(self) -> str | None:
        return self._access.reason

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        if self.read_only is not None:
            raise StoreError(f"{self._folder} can only be read ({self.read_only}); change that, or write to a copy")
        with self._guard, contextlib.ExitStack() as stack:
            if self._depth == 0:
                stack.enter_context(db.locked(self._folder))
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    @contextlib.contextmanager
    def _transaction(self, begin: str = "BEGIN") -> Iterator[None]:
        with self._guard:
            if self._access.is_outdated():
                self.close()
                self._open()
            with db.store_errors(self._folder), self._access.reading(), db.transaction(self._database, begin):
                yield

    def _writes(self) -> contextlib.AbstractContextManager[None]:
        return self._transaction("BEGIN IMMEDIATE")

    def notes(self) -> dict[str, str]:
        with self._transaction():
            return dict(self._database.execute("SELECT name, value FROM notes"))

    def set_note(self, name: str, value: str) -> None:
        with self._writes():
            statements.set_note(self._database, name, value)

    def stage(self, key: bytes, rows: Sequence[Row], vectors: Float[np.ndarray, "n d"]) -> None:
        with self._writes():
            statements.stage(self._database, key, rows, self._vectors.packed(vectors))

    def staged(self, key: bytes) -> set[bytes]:
        with self._transaction():
            return {path for (path,) in self._database.execute("SELECT path FROM staged WHERE key = ?", (key,))}

    def unfinished(self) -> dict[bytes, int]:
        with self._transaction():
            return dict(self._database.execute("SELECT key, count(*) FROM staged GROUP BY key"))

    def discard(self, key: bytes) -> None:
        with self._writes():
            self._database.execute("DELETE FROM staged WHERE key = ?", (key,))

    def publish(self, key: bytes) -> Changes:
        with self._writes():
            return statements.publish(self._database, key)

    def remove(self, conditions: Sequence[Condition]) -> int:
        with self._writes():
            return statements.remove(self._database, conditions)

    def count(self, condition: Condition) -> int:
        text, values = clause(condition)
        with self._transaction():
            return int(self._database.execute(f"SELECT count(*) FROM items WHERE {text}", values).fetchone()[0])

    def ids(self, condition: Condition, after: int, limit: int) -> list[int]:
        text, values = clause(condition)
        query = f"SELECT id FROM items WHERE id > ? AND {text} ORDER BY id LIMIT ?"
        with self._transaction():
            return [id for (id,) in self._database.execute(query, (after, *values, limit))]

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int, condition: Condition, *, exact: bool, thumbnails: bool
    ) -> tuple[list[Neighbours], dict[int, Row]]:
        self._rebuild_if_damaged()
        with self._transaction():
            found = self._search(queries, k, condition, exact)
            return found, self._rows({id for one in found for _, id in one}, thumbnails)

    def _search(self, queries: Float[np.ndarray, "q d"], k: int, condition: Condition, exact: bool) -> list[Neighbours]:
        self._snapshot.refresh()
        if exact and self._snapshot.structure is not None:
            return scan(self._vectors, queries, k, self._ids(condition))
        return search(self._snapshot, self._vectors, queries, k, None if condition.is_empty else self._ids(condition))

    def read(
        self, ids: Sequence[int], *, thumbnails: bool, vectors: bool = True
    ) -> tuple[dict[int, Row], dict[int, Float[np.ndarray, " d"]]]:
        with self._transaction():
            found, rows = self._vectors.of(np.array(ids if vectors else [], np.int64))
            return self._rows(set(ids), thumbnails), dict(zip(found.tolist(), rows, strict=True))

    def _ids(self, condition: Condition) -> np.ndarray:
        text, values = clause(condition)
        found = self._database.execute(f"SELECT id FROM items WHERE {text} ORDER BY id", values).fetchall()
        return np.array([id for (id,) in found], np.int64)

    def _rows(self, ids: set[int], thumbnails: bool) -> dict[int, Row]:
        picture = "thumbnail" if thumbnails else "NULL"
        query = f"SELECT id, path, label, metadata, {picture} FROM items WHERE id IN (SELECT value FROM json_each(?))"
        found = self._database.execute(query, (json.dumps(sorted(ids)),))
        return {id: _row(id, *values) for id, *values in found}

    def _rebuild_if_damaged(self) -> None:
        with self._transaction():
            self._snapshot.refresh()
        if self._snapshot.is_damaged and structures.available():
            # If the index cannot be written now, the search is exact.
            with contextlib.suppress(StoreError), self.writing():
                self.build(force=True)

    def build(self, *, force: bool) -> None:
        with self._transaction():
            self._snapshot.refresh()
            ids, generation = self._ids(Condition()), statements.generation(self._database)
        choice = choose(self._asked, len(ids), self.dimensions)
        if choice.kind != "flat" and not structures.available():
            choice = Choice("flat", f"flat: {choice.kind} needs faiss; pip install 'embedding-expansion[index]'")
        notes = {"kind": choice.kind, "reason": choice.reason}
        if choice.kind == "flat" or len(ids) == 0:
            self._finish(notes | {"recall": None}, None)
        elif force or self._is_stale(choice.kind, len(ids)):
            self._finish(notes, self._built(choice.kind, ids, generation))
            self._measure(ids)
        else:
            structure = self._snapshot.structure
            self._finish(notes, structure.stamp if structure else None)

    def _is_stale(self, kind: str, n: int) -> bool:
        structure = self._snapshot.structure
        if structure is None or structure.stamp.kind != kind:
            return True
        return len(self._snapshot.ids) + len(self._snapshot.gone) > STALE_SHARE * n

    def _built(self, kind: str, ids: np.ndarray, generation: int) -> structures.Stamp:
        rng = np.random.default_rng(structures.SEED)
        most = structures.TRAINING_ROWS_PER_LIST * max(256, structures.lists(len(ids)))
        chosen = rng.choice(ids, min(most, len(ids)), replace=False) if kind == "ivfpq" else ids[:1]
        try:
            training = self._vectors.of(chosen)[1]
            index = structures.build(kind, len(ids), training, self._vectors.blocks(ids))
            return structures.save(self._folder, index, kind, generation, len(ids))
        except (OSError, RuntimeError) as error:  # faiss raises the latter when the disk is full
            raise StoreError(
                f"the {kind} structure of {self._folder} cannot be built ({' '.join(str(error).split())}); no item is "
                "lost and searches are exact, build the index again when there is enough disk space"
            ) from error

    def _finish(self, notes: Mapping[str, str | None], stamp: structures.Stamp | None) -> None:
        with self._writes():
            for name, value in notes.items():
                statements.set_note(self._database, name, json.dumps(value))
            if stamp is None:
                self._database.execute("DELETE FROM notes WHERE name = 'structure'")
            else:
                statements.set_note(self._database, "structure", stamp.text())
        structures.clear(self._folder, stamp)

    def _measure(self, ids: np.ndarray) -> None:
        with self._transaction():
            chosen, vectors = self._vectors.of(np.array(sample(ids.tolist()), np.int64))
            recall = measure(
                chosen.tolist(),
                vectors,
                lambda queries, k: self._search(queries, k, Condition(), exact=False),
                lambda queries, k: self._search(queries, k, Condition(), exact=True),
            )
        self.set_note("recall", json.dumps(asdict(recall)))

    def put_file(self, name: str, pieces: Iterator[bytes]) -> None:
        place = self._folder / "model" / name
        with db.store_errors(self._folder):
            place.parent.mkdir(exist_ok=True)
            for left in place.parent.glob("*.partial-*"):  # by killed writers, since only one writes at a time
                left.unlink(missing_ok=True)
            with replacing(place) as partial, partial.open("wb") as file:
                file.writelines(pieces)

    def files(self) -> dict[str, int]:
        found = sorted((self._folder / "model").glob("*"))
        return {file.name: file.stat().st_size for file in found if ".partial-" not in file.name}

    def file(self, name: str) -> Iterator[bytes]:
        with db.store_errors(self._folder), (self._folder / "model" / name).open("rb") as file:
            while piece := file.read(2**24):
                yield piece

    def close(self) -> None:
        with self._guard:
            self._access.close()


def _row(id: int, path: Any, label: Any, metadata: Any, thumbnail: Any) -> Row:
    """Checks the types of a row from SQLite, whose columns may hold values of any type."""
    kinds = (path, bytes), (label, bytes | None), (metadata, str), (thumbnail, bytes | None)
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise sqlite3.DatabaseError(f"item {id} has values of another type")
    return Row(path, label, metadata, {}, thumbnail)
