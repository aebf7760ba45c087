"""What an index should hold and find, in plain lists: written apart from the stores."""

from __future__ import annotations

import string
from typing import Any

import numpy as np

from embedding_expansion.retrieval.index import Index, Item, Match


class Expected:
    """Items by path with their id and vector, as they should be after some operations."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[int, Item, np.ndarray]] = {}

    def add(self, index: Index, items: list[Item], vectors: np.ndarray) -> None:
        """Adds to the index and here; ids are read off the index, which may choose them as it likes."""
        index.add(items, vectors)
        ids = {item.path: item.id for found, _ in index.batches() for item in found}
        for item, vector in zip(items, vectors, strict=True):
            self.items[item.path] = (int(ids[item.path] or 0), item, vector)

    def search(self, query: np.ndarray, k: int, where: dict[str, Any] | None = None) -> list[tuple[int, float]]:
        """Ids and cosines of the k closest."""
        scored = []
        for id, item, vector in self.items.values():
            if fulfils(item, where or {}):
                a, b = query.astype(float), vector.astype(float)
                scored.append((-sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5), id))
        return [(id, -negative) for negative, id in sorted(scored)[:k]]


#: Upper case to lower case, of ASCII letters alone.
LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}


def fulfils(item: Item, where: dict[str, Any]) -> bool:
    """The meaning of a condition, one key at a time."""
    for key, wanted in where.items():
        if key == "path_prefix":
            if not item.path.startswith(wanted):
                return False
        elif key in ("path_contains", "label_contains"):
            text = getattr(item, key.removesuffix("_contains"))
            if text is None or wanted.translate(LOWER) not in text.translate(LOWER):
                return False
        elif key == "metadata":
            for name, value in wanted.items():
                if not among(item.metadata.get(name), value):
                    return False
        elif not among(getattr(item, key), wanted):
            return False
    return True


def among(value: Any, wanted: Any) -> bool:
    """Equality as JSON has it: 1 equals 1.0, but not true."""
    options = wanted if isinstance(wanted, list) else [wanted]
    if isinstance(value, (list, dict)):
        value = None
    return any(value == option and isinstance(value, bool) == isinstance(option, bool) for option in options)


def same(found: list[Match], wanted: list[tuple[int, float]]) -> None:
    """Equal similarities, and equal ids wherever neighbours are not a rounding error apart."""
    assert len(found) == len(wanted)
    for place, (match, (id, similarity)) in enumerate(zip(found, wanted, strict=True)):
        assert match.similarity == pytest_approx(similarity)
        near = [s for at, (_, s) in enumerate(wanted) if at != place and 0 < abs(s - similarity) < 1e-5]
        last = place == len(wanted) - 1
        if not near and not last:
            assert match.item.id == id


def pytest_approx(value: float) -> Any:
    import pytest

    return pytest.approx(value, abs=1e-5)


def items(n: int, start: int = 0) -> list[Item]:
    """Some items whose fields repeat."""
    return [
        Item(f"{'ab'[i % 2]}/{i}.jpg", None if i % 5 == 4 else f"class {i % 5}", {"n": i % 3, "odd": i % 2 == 1})
        for i in range(start, start + n)
    ]


def vectors(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    """Random directions."""
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
