"""One load in batches: what a `with index.loading(key)` block is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from embedding_expansion.checks import validates
from embedding_expansion.retrieval.index.items import Changes, Item


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
