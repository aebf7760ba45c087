"""The map of the report: test embeddings in two dimensions, with similar images close to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.data.images import ImageSet
from embedding_expansion.retrieval.projection import has_neighbours, in_deviations, principal_components, tsne

CLASSES, POINTS = 40, 400  # maximum numbers shown
LETTER, LINE = 1.45, 2.8  # width of a letter of a name and height of its line, on a map that is 100 units wide


@dataclass(frozen=True)
class Plane:
    """The 2-D positions of images."""

    method: str
    images: Int[np.ndarray, " m"]  # indices into the test set
    places: Float[np.ndarray, "m 2"]  # x from 0 to 1, y (upwards) from 0 to at most 1


def lay_out(vectors: Float[Tensor, "n d"], images: ImageSet, seed: int) -> Plane:
    """Lays out at most 400 images of at most 40 evenly spaced classes, with the same number of images per class.

    Uses t-SNE initialised by PCA, or PCA alone for fewer than 30 points. t-SNE runs in one thread, so that the same
    embeddings give the same map.
    """
    classes = _spread(images.classes, CLASSES)
    each = max(1, POINTS // len(classes))
    chosen = np.concatenate([_spread(np.flatnonzero(images.labels == label), each) for label in classes])
    points = vectors[chosen].double().cpu().numpy()
    by_pca = in_deviations(principal_components(points))
    if not has_neighbours(points):
        return Plane("PCA", chosen, _fitted(by_pca))
    return Plane("t-SNE", chosen, _fitted(tsne(points.astype(np.float32), by_pca, perplexity=15, seed=seed)))


def _spread(members: Int[np.ndarray, " k"], count: int) -> Int[np.ndarray, " few"]:
    places = np.linspace(0, len(members) - 1, min(len(members), count)).round().astype(int)
    return np.asarray(members[np.unique(places)])


def _fitted(places: Float[np.ndarray, "m 2"]) -> Float[np.ndarray, "m 2"]:
    """Scales positions so that x ranges from 0 to 1, after swapping x and y if y has the larger range."""
    low, high = places.min(axis=0), places.max(axis=0)
    if high[1] - low[1] > high[0] - low[0]:
        places, low, high = places[:, ::-1], low[::-1], high[::-1]
    return np.asarray((places - low) / max(float((high - low).max()), 1e-12))


def place_names(
    names: Sequence[str], centres: Sequence[tuple[float, float]], height: float
) -> list[tuple[float, float] | None]:
    """Finds a place for each whole name, beside its class and clear of the other names.

    A name is tried at the middle of its class, then above and below it, moved into the map where it would stick out.

    Args:
        names: the names.
        centres: the middle of each class, on a map that is 100 units wide.
        height: the height of the map.

    Returns:
        The middle of each name; None where there is no room for it.
    """
    found: list[tuple[float, float] | None] = []
    taken: list[tuple[float, float, float]] = []
    for name, (x, y) in zip(names, centres, strict=True):
        half = LETTER * len(name) / 2
        across = min(max(x, half), 100 - half)
        tries = [(across, y + away) for away in (0, -LINE, LINE, -2 * LINE, 2 * LINE) if 1 < y + away < height - 1]
        free = (place for place in tries if half <= 50 and not any(_meet(*place, half, *other) for other in taken))
        found.append(next(free, None))
        if found[-1] is not None:
            taken.append((*found[-1], half))
    return found


def _meet(x: float, y: float, half: float, other_x: float, other_y: float, other_half: float) -> bool:
    return abs(x - other_x) < half + other_half + 1 and abs(y - other_y) < LINE - 1e-9
