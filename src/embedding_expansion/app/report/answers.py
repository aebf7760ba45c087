"""The nearest neighbours of the test queries, the quality of the results, and confusions between classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.data.images import ImageSet
from embedding_expansion.retrieval.inputs import chosen_rows, unit_rows
from embedding_expansion.retrieval.search import nearest

SHOWN = 8  # neighbours per query


@dataclass(frozen=True)
class Answers:
    """The first neighbours of every query."""

    queries: Int[np.ndarray, " q"]  # indices into the test set
    neighbours: Int[np.ndarray, "q k"]  # indices into the test set, -1 if there are fewer neighbours
    similarities: Float[np.ndarray, "q k"]
    right: Bool[np.ndarray, "q k"]  # whether the neighbour has the query's class
    quality: Float[np.ndarray, " q"]  # average precision at k; NaN for a query without matches in the gallery


def find_answers(vectors: Float[Tensor, "n d"], images: ImageSet, k: int = SHOWN) -> Answers:
    """Finds the k nearest gallery images of every query by cosine similarity, without the query itself.

    The quality of a query is its average precision at k: the sum of the precisions at the ranks of correct neighbours,
    divided by the possible number of them, min(k, matches in the gallery). It is 1 if all correct neighbours come
    first.
    """
    n = len(images)
    queries = chosen_rows(images.is_query, "is_query", n)
    gallery = chosen_rows(images.is_gallery, "is_gallery", n)
    place = np.full(n, -1)
    place[gallery] = np.arange(len(gallery))
    rows = unit_rows(vectors)
    values, columns = (part.cpu().numpy() for part in nearest(rows[queries], rows[gallery], k, exclude=place[queries]))
    neighbours = np.where(columns < 0, -1, gallery[columns])
    right = (images.labels[neighbours] == images.labels[queries][:, None]) & (columns >= 0)
    matches = np.bincount(images.labels[gallery], minlength=len(images.class_names))[images.labels[queries]]
    matches = matches - (place[queries] >= 0)
    return Answers(queries, neighbours, values, right, _average_precision(right, matches))


def _average_precision(right: Bool[np.ndarray, "q k"], matches: Int[np.ndarray, " q"]) -> Float[np.ndarray, " q"]:
    precision = right.cumsum(axis=1) / np.arange(1, right.shape[1] + 1)
    possible = np.minimum(matches, right.shape[1])
    return np.where(possible > 0, (precision * right).sum(axis=1) / np.maximum(possible, 1), np.nan)


def best(answers: Answers, images: ImageSet, count: int) -> list[int]:
    """Indices of the queries with the best results, from different classes.

    Ties go to the query with the more similar last neighbour.
    """
    order = np.lexsort((-answers.similarities[:, -1], -answers.quality))
    return _of_many_classes(order, answers, images, count)


def typical(answers: Answers, images: ImageSet, count: int) -> list[int]:
    """Indices of the queries with a quality closest to the median, from different classes, in test set order."""
    middle = np.nanmedian(answers.quality) if (~np.isnan(answers.quality)).any() else 0.0
    order = np.argsort(np.abs(answers.quality - middle), kind="stable")
    return sorted(_of_many_classes(order, answers, images, count))


def worst(answers: Answers, images: ImageSet, count: int) -> list[int]:
    """Indices of the queries with the worst results, from different classes.

    Ties go to the query with the more similar first neighbour.
    """
    order = np.lexsort((-answers.similarities[:, 0], answers.quality))
    return _of_many_classes(order, answers, images, count)


def _of_many_classes(order: Int[np.ndarray, " q"], answers: Answers, images: ImageSet, count: int) -> list[int]:
    """The first queries with matches in the gallery: one per class, and more per class only if classes run out."""
    places = [place for place in order.tolist() if not np.isnan(answers.quality[place])]
    seen: set[int] = set()
    first: list[int] = []
    more: list[int] = []
    for place in places:
        label = int(images.labels[answers.queries[place]])
        (more if label in seen else first).append(place)
        seen.add(label)
    return (first + more)[:count]


@dataclass(frozen=True)
class ClassResult:
    """The results of the queries of one class."""

    label: int
    images: int  # in the test set
    queries: int
    right: int  # queries whose nearest image has their class
    mistaken_for: int | None  # the wrong class that is most often nearest
    mistaken: int  # number of queries with that class nearest

    @property
    def recall(self) -> float:
        """The class's Recall@1."""
        return self.right / self.queries


def by_class(answers: Answers, images: ImageSet) -> list[ClassResult]:
    """The results of all classes with queries, worst first; ties by label."""
    labels = images.labels[answers.queries]
    mistakes = confusions(answers, images)
    most = {mistake.label: mistake for mistake in reversed(mistakes)}
    results = []
    for label in np.unique(labels).tolist():
        right, mistake = answers.right[labels == label, 0], most.get(label)
        taken = (None, 0) if mistake is None else (mistake.other, mistake.count)
        results.append(
            ClassResult(label, int((images.labels == label).sum()), len(right), int(right.sum()), *taken),
        )
    return sorted(results, key=lambda result: result.recall)


@dataclass(frozen=True)
class Confusion:
    """Queries of one class whose nearest image has another class."""

    label: int
    other: int
    count: int
    share: float  # of the class's queries
    example: int  # index of the query with the most similar wrong image


def confusions(answers: Answers, images: ImageSet) -> list[Confusion]:
    """All confusions between classes, the most frequent first; ties by label."""
    labels, nearest_label = images.labels[answers.queries], images.labels[answers.neighbours[:, 0]]
    wrong = np.flatnonzero(~answers.right[:, 0] & (answers.neighbours[:, 0] >= 0))
    groups: dict[tuple[int, int], list[int]] = {}
    for place in wrong.tolist():
        groups.setdefault((int(labels[place]), int(nearest_label[place])), []).append(place)
    queries = np.bincount(labels, minlength=len(images.class_names))
    surest = answers.similarities[:, 0].tolist()
    found = [
        Confusion(label, other, len(places), len(places) / int(queries[label]), max(places, key=surest.__getitem__))
        for (label, other), places in groups.items()
    ]
    return sorted(found, key=lambda confusion: (-confusion.count, confusion.label, confusion.other))
