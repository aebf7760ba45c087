"""The sections of the report about the test images: results, map, classes and confusions, with names and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import torch
from torch import Tensor

from embedding_expansion.app.report import answers as found
from embedding_expansion.app.report.answers import Answers
from embedding_expansion.app.report.plane import Plane, lay_out, place_names
from embedding_expansion.data.images import ImageSet
from embedding_expansion.data.thumbnails import data_uri, thumbnail
from embedding_expansion.errors import DataError
from embedding_expansion.training.job import Tested

SIDE, LOSSLESS = 96, 40  # longer side of a thumbnail, and largest width stored as PNG, in pixels
QUERIES = 5  # queries per group: best, typical and worst
CLASSES, CONFUSIONS = 200, 10  # maximum numbers shown


@dataclass(frozen=True)
class Picture:
    """An image or vector in the report."""

    uri: str  # empty for a vector and for an unreadable image
    name: str  # name of its class
    file: str  # its file, or its name if it is a vector
    is_vector: bool = False

    @property
    def file_name(self) -> str:
        """The name of its file without the folders; empty for a vector, which shows its name instead of pixels."""
        return "" if self.is_vector else PurePath(self.file).name


class Album:
    """The pictures of an image set, made on demand."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self._uris: dict[int, str] = {}

    def __getitem__(self, index: int) -> Picture:
        """The picture of the image with this index."""
        images = self._images
        if index not in self._uris:
            self._uris[index] = "" if images.holds_vectors else self._uri(index)
        return Picture(
            self._uris[index], self.name(int(images.labels[index])), images.called(index), images.holds_vectors
        )

    def name(self, label: int) -> str:
        """The name of a class."""
        return self._images.class_names[label]

    def _uri(self, index: int) -> str:
        try:
            return uri_of(self._images.load(index, SIDE))
        except DataError:
            return ""


def uri_of(pixels: Tensor) -> str:
    """The thumbnail of a uint8 image (c, h, w) as a data URI. Unless c is 1 or 3, only the first channel is shown."""
    shown = pixels if pixels.shape[0] in (1, 3) else pixels[:1]
    array = shown.permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    return data_uri(thumbnail(array[..., 0] if array.shape[2] == 1 else array, SIDE, LOSSLESS))


@dataclass(frozen=True)
class QueryResult:
    """A query and its nearest neighbours: picture, whether the class is the query's, similarity."""

    picture: Picture
    quality: float
    neighbours: list[tuple[Picture, bool, float]]

    @property
    def right(self) -> int:
        """Number of neighbours with the query's class."""
        return sum(right for _, right, _ in self.neighbours)


@dataclass(frozen=True)
class Spot:
    """A class on the map, which is 100 units wide. Positions count from the left and the top."""

    name: str
    place: tuple[float, float] | None  # of the middle of its name; None if there is no room for it
    hue: int
    points: list[tuple[float, float]]
    neighbour: str  # the class with the most similar mean
    likeness: float  # cosine similarity of the two means
    closeness: float  # mean cosine similarity of the images to the mean of their class


class Gallery:
    """Everything that the report shows about the test results of a model."""

    def __init__(self, tested: Tested) -> None:
        self._images, self._album = tested.images, Album(tested.images)
        self._answers = found.find_answers(tested.vectors, tested.images)
        self.has_gallery = tested.images.is_gallery is not None
        plane = lay_out(tested.vectors, tested.images, tested.job.config.seed)
        self.method, self.shown = plane.method, len(plane.images)
        self.height = round(float(plane.places[:, 1].max()) * 96 + 10, 1)
        self.spots = _spots(plane, tested, self._album.name)
        results = found.by_class(self._answers, self._images)
        self.number_of_classes = len(results)
        self.classes = [(self._album.name(result.label), result, self._other(result)) for result in results[:CLASSES]]
        confusions = found.confusions(self._answers, self._images)
        self.mistakes, self.queries = sum(each.count for each in confusions), len(self._answers.queries)
        self.confusions = [(each, *self._example(each.example)) for each in confusions[:CONFUSIONS]]

    @property
    def groups(self) -> list[tuple[str, str, list[QueryResult]]]:
        """The best, typical and worst queries, without repetitions: title, explanation, queries."""
        chosen: set[int] = set()
        groups = []
        for title, text, choose in _GROUPS:
            places = [place for place in choose(self._answers, self._images, 2 * QUERIES) if place not in chosen]
            chosen |= set(places[:QUERIES])
            groups.append((title, text, [self._query(place) for place in places[:QUERIES]]))
        return [group for group in groups if group[2]]

    def _query(self, place: int) -> QueryResult:
        answers = self._answers
        row = zip(answers.neighbours[place], answers.right[place], answers.similarities[place], strict=True)
        shown = [(self._album[int(image)], bool(right), float(value)) for image, right, value in row if image >= 0]
        return QueryResult(self._album[int(answers.queries[place])], float(answers.quality[place]), shown)

    def _example(self, place: int) -> tuple[Picture, Picture]:
        answers = self._answers
        return self._album[int(answers.queries[place])], self._album[int(answers.neighbours[place, 0])]

    def _other(self, result: found.ClassResult) -> str:
        return "" if result.mistaken_for is None else self._album.name(result.mistaken_for)


_GROUPS: list[tuple[str, str, Callable[[Answers, ImageSet, int], list[int]]]] = [
    ("Best", "Queries with the highest average precision.", found.best),
    ("Typical", "Queries with an average precision near the median.", found.typical),
    ("Worst", "Queries with the lowest average precision.", found.worst),
]


def _spots(plane: Plane, tested: Tested, name: Callable[[int], str]) -> list[Spot]:
    """The classes on the map. The most similar class is searched among these classes only."""
    labels = tested.images.labels[plane.images]
    vectors = tested.vectors[plane.images].double().cpu().numpy()
    classes = np.unique(labels)
    means = np.stack([vectors[labels == label].mean(axis=0) for label in classes])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    alike = means @ means.T
    np.fill_diagonal(alike, -np.inf)
    top = float(plane.places[:, 1].max()) * 96
    groups = [plane.places[labels == label] * (96, -96) + (2, top + 6) for label in classes]
    centres = [tuple(np.median(points, axis=0).round(1).tolist()) for points in groups]
    places = place_names([name(label) for label in classes.tolist()], centres, top + 10)
    spots: list[Spot] = []
    for row, (label, points) in enumerate(zip(classes.tolist(), groups, strict=True)):
        nearest = int(alike[row].argmax())
        spots.append(
            Spot(
                name(label),
                places[row],
                round(row * 137.508) % 360,
                [(across, down) for across, down in points.round(1).tolist()],
                name(int(classes[nearest])) if len(classes) > 1 else "",
                float(alike[row, nearest]) if len(classes) > 1 else 0.0,
                float((vectors[labels == label] @ means[row]).mean()),
            )
        )
    return spots
