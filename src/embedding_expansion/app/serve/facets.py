"""Facets, what can be filtered by: the labels of a collection and the values of its metadata, with their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from embedding_expansion.inference.labels import OWN
from embedding_expansion.retrieval.index import Item

#: How many keys of the metadata, and how many values of each, are counted.
MOST_KEYS, MOST_VALUES = 50, 1000


@dataclass
class Facets:
    """Labels and metadata of the items that were counted.

    Attributes:
        labels: each label with its number of images.
        facts: for each key, its values as texts with their number of images. What the index itself stores about files
            is left out, and so are values beyond the first `MOST_VALUES` of a key.
    """

    labels: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, items: Iterable[Item]) -> None:
        """Counts items."""
        for item in items:
            if item.label is not None:
                self.labels[item.label] += 1
            for key, value in item.metadata.items():
                if key not in OWN and isinstance(value, (str, int, float)):
                    self._count_fact(key, _text(value))

    def labels_containing(self, part: str, count: int) -> list[tuple[str, int]]:
        """The most frequent labels that contain a text, whatever the case of letters."""
        sought = part.casefold()
        return Counter({k: n for k, n in self.labels.items() if sought in k.casefold()}).most_common(count)

    def _count_fact(self, key: str, text: str) -> None:
        if key not in self.facts and len(self.facts) >= MOST_KEYS:
            return
        values = self.facts.setdefault(key, Counter())
        if text in values or len(values) < MOST_VALUES:
            values[text] += 1


def _text(value: str | int | float | bool) -> str:
    """A value as it is written in a filter."""
    return str(value).lower() if isinstance(value, bool) else str(value)
