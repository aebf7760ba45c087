"""What an index asks of a backend. `Index` has checked everything that comes in here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from embedding_expansion.retrieval.arrays import Neighbours
from embedding_expansion.retrieval.index.items import Changes, Row
from embedding_expansion.retrieval.index.where import Condition

#: The notes that a backend keeps itself; users' notes have other names.
# fmt: off
OWN_NOTES = {
    "generation", "structure", "dimensions", "asked", "kind", "reason", "recall", "precision", "published", "format",
}
# fmt: on


@runtime_checkable
class Store(Protocol):
    """A place that holds rows and vectors. Every method is one transaction."""

    location: str  # without a password
    dimensions: int

    @property
    def read_only(self) -> str | None:
        """Why it may only be read, in a few words; None where it may be written, or only the server knows."""

    def writing(self) -> AbstractContextManager[None]:
        """Holds the one right to write; taken by another process it is a StoreError."""

    def notes(self) -> dict[str, str]:
        """Names and JSON texts."""

    def set_note(self, name: str, value: str) -> None:
        """Writes one of them."""

    def stage(self, key: bytes, rows: Sequence[Row], vectors: Float[np.ndarray, "n d"]) -> None:
        """Keeps rows where no search sees them; the same path again replaces. Paths within one call differ."""

    def staged(self, key: bytes) -> set[bytes]:
        """The paths that are kept so."""

    def unfinished(self) -> dict[bytes, int]:
        """The keys of loads that are not published yet, with how many rows they hold."""

    def discard(self, key: bytes) -> None:
        """Forgets what is staged."""

    def publish(self, key: bytes) -> Changes:
        """Makes all that is staged visible at once."""

    def build(self, *, force: bool) -> None:
        """Brings the structure that is searched up to date, where it pays or is forced, and measures its recall."""

    def count(self, condition: Condition) -> int:
        """How many rows fulfil a condition."""

    def remove(self, conditions: Sequence[Condition]) -> int:
        """Removes the rows that fulfil any of them; returns how many."""

    def search(
        self, queries: Float[np.ndarray, "q d"], k: int, condition: Condition, *, exact: bool, thumbnails: bool
    ) -> tuple[list[Neighbours], dict[int, Row]]:
        """What each query finds, and the rows of all that was found."""

    def read(
        self, ids: Sequence[int], *, thumbnails: bool, vectors: bool = True
    ) -> tuple[dict[int, Row], dict[int, Float[np.ndarray, " d"]]]:
        """Rows and vectors (none if they are not asked for) by id; ids that there are not are left out."""

    def ids(self, condition: Condition, after: int, limit: int) -> list[int]:
        """The smallest ids beyond one that fulfil a condition."""

    def put_file(self, name: str, pieces: Iterator[bytes]) -> None:
        """Keeps a file of the model's; the same name again replaces it in one step."""

    def files(self) -> dict[str, int]:
        """Names and sizes in bytes."""

    def file(self, name: str) -> Iterator[bytes]:
        """The content of one of them, in pieces."""

    def close(self) -> None:
        """Ends it; nothing is lost."""
