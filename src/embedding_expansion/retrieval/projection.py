"""Two-dimensional maps of embeddings by PCA and t-SNE."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

#: Smaller sets are laid out by PCA alone: t-SNE needs neighbours.
FEWEST = 30


def has_neighbours(points: Float[np.ndarray, "n d"]) -> bool:
    """Whether t-SNE can lay out these points: they are enough, and not all equal."""
    return len(points) >= FEWEST and bool(np.ptp(points, axis=0).max() > 0)


def principal_components(points: Float[np.ndarray, "n d"], count: int = 2) -> Float[np.ndarray, "n count"]:
    """The first principal components in float64, by an exact singular value decomposition.

    Components that do not exist are zeros: those beyond the number of points or dimensions, and all of equal points.
    """
    centred = points.astype(np.float64)
    centred -= centred[0]  # equal points become exact zeros, which the mean alone may miss by rounding
    left, sizes, _ = np.linalg.svd(centred - centred.mean(axis=0), full_matrices=False)
    found = (left * sizes)[:, :count]
    components: Float[np.ndarray, "n count"] = np.pad(found, ((0, 0), (0, count - found.shape[1])))
    return components


def in_deviations(components: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n 2"]:
    """The first two principal components, in standard deviations of the first; zeros stay zeros."""
    scaled: Float[np.ndarray, "n 2"] = components[:, :2] / max(float(components[:, 0].std()), 1e-12)
    return scaled


def tsne(
    points: Float[np.ndarray, "n d"], start: Float[np.ndarray, "n 2"], *, perplexity: int | float, seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """Lays out points in the plane, similar points close to each other.

    It runs in one thread, so that the same points give the same map.

    Args:
        points: float32, such as embeddings or their principal components.
        start: the positions to start from, as `in_deviations` gives them.
        perplexity: the number of neighbours that count, roughly; at most a quarter of the points.
        seed: of what t-SNE draws.

    Source: L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 2008, as scikit-learn has it.
    Differs from the source: it starts from the principal components, and not at random.
    """
    from sklearn.manifold import TSNE  # takes a second to load
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # type: ignore[no-untyped-call]
        layout: Any = TSNE(  # type: ignore[no-untyped-call]
            perplexity=min(perplexity, len(points) / 4), init=start * 1e-4, random_state=seed, max_iter=500
        )
        positions: Float[np.ndarray, "n 2"] = layout.fit_transform(points)
    return positions
