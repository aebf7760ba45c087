"""What a process keeps in memory of an index in a folder, and updates when the database has changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from embedding_expansion.retrieval.index.folder import structure as structures
from embedding_expansion.retrieval.index.folder.statements import generation
from embedding_expansion.retrieval.index.folder.structure import Stamp, Structure
from embedding_expansion.retrieval.index.notes import read_note

BLOCK = 16_384  # rows that are read at a time


class StoredVectors:
    """Reads vectors from the database.

    Args:
        database: an open connection.
        dimensions: of a vector.
        precision: the type in which vectors are stored, "float32" or "float16".
    """

    def __init__(self, database: sqlite3.Connection, dimensions: int, precision: str) -> None:
        self._database, self._dimensions, self._type = database, dimensions, np.dtype(precision)

    def packed(self, vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Converts vectors to the type in which they are stored."""
        return vectors.astype(self._type)

    def unpacked(self, blobs: list[Any]) -> Float[np.ndarray, "n d"]:
        """Converts stored vectors to float32; those that were rounded to float16 are normalised again."""
        size = self._dimensions * self._type.itemsize
        if any(not isinstance(blob, bytes) or len(blob) != size for blob in blobs):
            raise sqlite3.DatabaseError(f"a vector does not have {size:,} bytes")
        rows = np.frombuffer(b"".join(blobs), self._type).reshape(len(blobs), self._dimensions).astype(np.float32)
        if self._type != np.float32:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def where(self, text: str, *values: object) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
        """The ids and vectors of the rows that a SQL clause selects, by ascending id."""
        found = self._database.execute(f"SELECT id, vector FROM items WHERE {text} ORDER BY id", values).fetchall()
        return np.array([id for id, _ in found], np.int64), self.unpacked([blob for _, blob in found])

    def of(self, ids: Int[np.ndarray, " asked"]) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n d"]]:
        """The ids and vectors of those of the given ids that exist, by ascending id."""
        return self.where("id IN (SELECT value FROM json_each(?))", json.dumps(ids.tolist()))

    def blocks(self, ids: Int[np.ndarray, " n"]) -> Iterator[tuple[Int[np.ndarray, " b"], Float[np.ndarray, "b d"]]]:
        """Yields the ids and vectors of `of`, a bounded number of rows at a time."""
        for start in range(0, len(ids), BLOCK):
            yield self.of(ids[start : start + BLOCK])


class Snapshot:
    """A structure over the rows of one generation, and all rows that were written later.

    Without a structure, all rows count as written later, and the search is exact. Every
    kind of index therefore uses the same search, and a search finds new rows before the structure is rebuilt.
    """

    def __init__(self, folder: Path, database: sqlite3.Connection, vectors: StoredVectors) -> None:
        self._folder, self._database, self._vectors = folder, database, vectors
        self._stamp: str | None = None
        self._generation = -1
        self.is_damaged = False
        self._start(None)

    def _start(self, structure: Structure | None) -> None:
        self.structure = structure
        self.ids = np.empty(0, np.int64)
        self.rows = self._vectors.unpacked([])
        self.gone = np.empty(0, np.int64)
        self._generation = -1

    def refresh(self) -> None:
        """Reads what has changed in the database; call it within a transaction."""
        row = self._database.execute("SELECT value FROM notes WHERE name = 'structure'").fetchone()
        stamp = row[0] if row else None
        if stamp != self._stamp:
            noted = None if stamp is None else read_note({"structure": stamp}, "structure", str(self._folder))
            parsed = None if noted is None else Stamp(**noted)
            self._start(None if parsed is None else structures.load(self._folder, parsed))
            self._stamp, self.is_damaged = stamp, parsed is not None and self.structure is None
        now = generation(self._database)
        if now != self._generation:
            self._read_changes()
            self._generation = now

    def _read_changes(self) -> None:
        covered = self.structure.stamp.generation if self.structure else 0
        newer_ids, newer_rows = self._vectors.where("changed > ?", max(covered, self._generation))
        keep = np.isin(self.ids, self._all("changed > ?", covered)) & ~np.isin(self.ids, newer_ids)
        ids = np.concatenate([self.ids[keep], newer_ids])
        order = np.argsort(ids, kind="stable")
        kept = self.rows if keep.all() else self.rows[keep]
        self.ids, self.rows = ids[order], np.concatenate([kept, newer_rows]) if len(kept) else newer_rows
        if len(kept):
            self.rows = self.rows[order]
        if self.structure:
            self.gone = np.setdiff1d(self.structure.ids, self._all("changed <= ?", covered), assume_unique=True)

    def _all(self, text: str, *values: object) -> Int[np.ndarray, " n"]:
        found = self._database.execute(f"SELECT id FROM items WHERE {text} ORDER BY id", values).fetchall()
        return np.array([id for (id,) in found], np.int64)
