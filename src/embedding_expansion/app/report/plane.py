"""The map of the report: test embeddings in two dimensions, with similar images close to each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.data.images import ImageSet
from embedding_expansion.retrieval.projection import has_neighbours, in_deviations, principal_components, tsne

CLASSES, POINTS = 40, 400  # maximum numbers shown


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


def short_names(names: Sequence[str], longest: int = 14) -> list[str]:
    """Shortens each name to the fewest first words that distinguish it from the others.

    Example:
        >>> short_names(["A capital letter", "B capital letter", "B small letter"])
        ['A', 'B capital', 'B small']
    """
    words = [re.split(r"(?<=[\s_])(?=[^\s_])", name) for name in names]
    result = []
    for own in words:
        lengths = range(1, len(own) + 1)
        length = next((k for k in lengths if sum(other[:k] == own[:k] for other in words) == 1), len(own))
        short = "".join(own[:length]).rstrip(" _")
        result.append(short if len(short) <= longest else short[: longest - 1] + "…")
    return result
