"""The interface of a backend. `Index` checks all arguments before it calls one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from embedding_expansion.retrieval.arrays import Neighbours
from embedding_expansion.retrieval.index.items import Changes, Row
from embedding_expansion.retrieval.index.where import Condition

#: The notes that a backend keeps itself; notes of callers cannot have these names.
# fmt: off
OWN_NOTES = {
    "generation", "structure", "dimensions", "asked", "kind", "reason", "recall", "precision", "published", "format",
}
# fmt: on


@runtime_checkable
class Store(Protocol):
    """Stores rows and vectors. Every method is one transaction."""

    location: str  # without a password
    dimensions: int

    @property
    def read_only(self) -> str | None:
        """Why the store can only be read, in a few words; None if it can be written, or only the server knows."""

    def writing(self) -> AbstractContextManager[None]:
        """Holds the exclusive right to write; raises a StoreError if another process holds it."""

    def notes(self) -> dict[str, str]:
        """The names of the notes and their values as JSON."""

    def set_note(self, name: str, value: str) -> None:
        """Writes a note, whose value is JSON."""

    def stage(self, key: bytes, rows: Sequence[Row], vectors: Float[np.ndarray, "n d"]) -> None:
        """Writes rows that searches do not see yet; a path that is already staged is replaced. Paths must differ."""

    def staged(self, key: bytes) -> set[bytes]:
        """The paths that are staged under a key."""

    def unfinished(self) -> dict[bytes, int]:
        """The keys of loads that are not published yet, with the number of rows that each has staged."""

    def discard(self, key: bytes) -> None:
        """Deletes what is staged under a key."""

    def publish(self, key: bytes) -> Changes:
        """Makes everything that is staged under a key visible at once."""

    def build(self, *, force: bool) -> None:
        """Rebuilds the search structure if that pays or is forced, and measures its recall."""

    def count(self, condition: Condition) -> int:
        """Counts the rows that fulfil a condition."""

    def remove(self, conditions: Sequence[Condition]) -> int:
        """Removes the rows that fulfil any of the conditions, and returns how many."""

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int, condition: Condition, *, exact: bool, thumbnails: bool
    ) -> tuple[list[Neighbours], dict[int, Row]]:
        """The neighbours of each query, and the rows of all neighbours by id."""

    def read(
        self, ids: Sequence[int], *, thumbnails: bool, vectors: bool = True
    ) -> tuple[dict[int, Row], dict[int, Float[np.ndarray, " d"]]]:
        """Rows and, if requested, vectors by id; ids that do not exist are missing from the result."""

    def ids(self, condition: Condition, after: int, limit: int) -> list[int]:
        """The first `limit` ids above `after` whose rows fulfil a condition, in ascending order."""

    def put_file(self, name: str, pieces: Iterator[bytes]) -> None:
        """Stores a file of the model; a file of the same name is replaced atomically."""

    def files(self) -> dict[str, int]:
        """The names of the stored files and their sizes in bytes."""

    def file(self, name: str) -> Iterator[bytes]:
        """The content of a stored file, in pieces."""

    def close(self) -> None:
        """Closes the store; it cannot be used any more."""
