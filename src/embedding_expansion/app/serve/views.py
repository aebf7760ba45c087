"""Clusters for another k, and near-duplicates: computed when somebody asks, one at a time, and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float

from embedding_expansion.app.serve.collection_map import CollectionMap
from embedding_expansion.app.serve.grouping import Grouping, grouped
from embedding_expansion.retrieval.duplicates import Duplicates, near_duplicates
from embedding_expansion.retrieval.index import Item, open_index

#: The most images that are compared with each other; of a larger collection a random sample is.
MOST_COMPARED = 20_000
#: How many results are kept.
KEPT = 8

Key: TypeAlias = tuple[str, str, int | float]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Copies:
    """The near-duplicates of a collection.

    Attributes:
        items: the images that were compared, without thumbnails.
        total: the number of images in the collection.
        found: their near-duplicates, as indices into `items`.
    """

    items: list[Item]
    total: int
    found: Duplicates


class Views:
    """Computes what is asked for in a thread of its own, with its own connection to the index.

    A question is answered with None while its answer is computed. Of several questions that wait, only the latest is
    kept, so that moving a slider does not fill a queue; whoever still wants another answer asks again.

    Args:
        location: the folder or URL of the index.
    """

    def __init__(self, location: str) -> None:
        self._location, self._guard = location, threading.Lock()
        self._found: OrderedDict[Key, object] = OrderedDict()
        self._next: tuple[Key, Callable[[], object]] | None = None
        self._is_working = False

    def clusters(self, drawn: CollectionMap, k: int | None) -> Grouping | None:
        """The clusters of the images on a map; None while they are computed.

        Args:
            drawn: the map.
            k: the number of clusters; None means the default of the map.
        """
        if k is None or not drawn.items:
            return drawn.grouping
        return self._ask((drawn.version, "clusters", k), lambda: grouped(drawn.vectors, k, "request"))

    def duplicates(self, version: str, threshold: float) -> Copies | None:
        """The near-duplicates of the collection; None while they are computed.

        Args:
            version: the state of the index, see `version_of`.
            threshold: the smallest cosine similarity of near-duplicates.
        """
        return self._ask((version, "duplicates", threshold), lambda: self._duplicates(threshold))

    def _ask(self, key: Key, compute: Callable[[], Result]) -> Result | None:
        with self._guard:
            if key in self._found:
                self._found.move_to_end(key)
                found = self._found[key]
                if isinstance(found, Exception):
                    del self._found[key]
                    raise found
                return found  # type: ignore[return-value]  # a key has results of one type
            self._next = (key, compute)
            if not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, name="embex-views", daemon=True).start()
            return None

    def _work(self) -> None:
        while True:
            with self._guard:
                if self._next is None:
                    self._is_working = False
                    return
                (key, compute), self._next = self._next, None
            try:
                found: object = compute()
            except Exception as error:  # raised where the answer is asked for
                found = error
            with self._guard:
                self._found[key] = found
                while len(self._found) > KEPT:
                    self._found.popitem(last=False)
                if self._next is not None and self._next[0] == key:
                    self._next = None

    def _duplicates(self, threshold: float) -> Copies:
        with open_index(self._location) as index:
            total, position = index.count(), 0
            is_chosen = np.zeros(total, bool)
            is_chosen[np.random.default_rng(0).choice(total, min(total, MOST_COMPARED), replace=False)] = True
            items: list[Item] = []
            rows: list[Float[np.ndarray, "n d"]] = [np.zeros((0, index.dimensions), np.float32)]
            for found, vectors in index.batches():
                here = np.flatnonzero(is_chosen[position : position + len(found)])
                items += [found[place] for place in here]
                rows.append(vectors[here])
                position += len(found)
        return Copies(items, position, near_duplicates(np.concatenate(rows), threshold))
