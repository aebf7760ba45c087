"""The hard negatives of a few training batches: the hardest pair of points of each pair of classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.core.expansion import hardest
from embedding_expansion.core.mining import Winners
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Metric
from embedding_expansion.forms import Scope
from embedding_expansion.training.evaluation import embed_images, model_embedder
from embedding_expansion.training.job import Job, make_sampler

IMAGES = 256  # images to look at, in one to three whole batches


@dataclass(frozen=True)
class Point:
    """An original or synthetic point."""

    label: int
    images: tuple[int, ...]  # training images: one, or the two ends of the segment
    weights: tuple[float, ...]  # weight of each image

    @property
    def is_synthetic(self) -> bool:
        """Whether the point lies between two images."""
        return len(self.images) > 1


@dataclass(frozen=True)
class HardPair:
    """The most similar points of two classes."""

    anchor: Point
    negative: Point
    similarity: float
    similarity_of_originals: float  # similarity of the hardest pair of original points


@dataclass(frozen=True)
class Selection:
    """The hard negatives selected in a few batches."""

    pairs: list[HardPair]  # the hardest pairs, at most one for each pair of classes
    counts: tuple[int, int, int]  # number of selected pairs with 0, 1 and 2 synthetic points
    images: int  # number of images looked at


def select(job: Job, count: int) -> Selection:
    """Selects the hardest pairs in the first training batches, with the model's current weights and test transform.

    Without a search the pairs are pairs of images (n = 0). A cross-batch memory is ignored. Classes with an unreadable
    image are skipped.

    Raises:
        DataError: no image of a batch can be read.
    """
    size = min(max(1, IMAGES // job.batch_size), 3, job.config.steps)
    found, images = [], 0
    for step in range(size):
        vectors, rows = _batch(job, step)
        found += _pairs_of(job, vectors, rows)
        images += len(rows)
    found.sort(key=lambda pair: -pair.similarity)
    kept: dict[frozenset[int], HardPair] = {}
    for pair in found:
        kept.setdefault(frozenset((pair.anchor.label, pair.negative.label)), pair)
    synthetic = [pair.anchor.is_synthetic + pair.negative.is_synthetic for pair in found]
    counts = synthetic.count(0), synthetic.count(1), synthetic.count(2)
    return Selection(list(kept.values())[:count], counts, images)


def _batch(job: Job, step: int) -> tuple[Float[Tensor, "b d"], Int[np.ndarray, " b"]]:
    """Embeddings of a batch and the indices of their training images. A class with an unreadable image is skipped."""
    rows = make_sampler(job.train, job.config).batch(step)
    embed, broken = model_embedder(job.model, job.device, job.precision), dict[Path, str]()
    # `Job` caches features of a frozen backbone and records broken training images, so it is not used here.
    vectors, _ = embed_images(embed, job.train.subset(rows), job.test_transform, workers=job.workers, broken=broken)
    readable = np.array([job.train.path(row) not in broken for row in rows.tolist()])
    whole = ~np.isin(job.train.labels[rows], job.train.labels[rows[~readable]])
    return vectors.cpu()[torch.from_numpy(whole[readable])], rows[whole]


def _pairs_of(job: Job, vectors: Float[Tensor, "b d"], rows: Int[np.ndarray, " b"]) -> list[HardPair]:
    """The hardest pairs of a batch: for each pair of classes in class-pair scope, else for each anchor and class."""
    labels = job.train.labels[rows]
    classes = np.unique(labels)
    if len(classes) < 2:
        return []
    expansion = job.config.expansion.resolved
    n: float = math.inf if expansion.n == "inf" else expansion.n if isinstance(expansion.n, int) else 0
    scope: Scope = "class_pair"
    if expansion.search is None:
        n = 0
    else:
        scope = expansion.search.scope
    metric = _metric(job.loss.plain())
    search = partial(
        hardest,
        vectors,
        torch.from_numpy(labels),
        scope=scope,
        normalize_synthetic=expansion.normalize_synthetic,
        metric=metric,
        max_segments=expansion.max_segments,
    )
    winners, originals = search(n=n), search(n=0)
    values = _similarities(vectors, winners, metric, expansion.normalize_synthetic)
    plain = _similarities(vectors, originals, metric, expansion.normalize_synthetic)
    pairs = []
    for left, label in enumerate((classes if scope == "class_pair" else labels).tolist()):
        for right in np.flatnonzero(classes > label if scope == "class_pair" else classes != label).tolist():
            sides = [
                _point(name, winners, (left, right, side), rows)
                for side, name in enumerate((label, int(classes[right])))
            ]
            pairs.append(HardPair(sides[0], sides[1], float(values[left, right]), float(plain[left, right])))
    return pairs


def _metric(loss: PairLoss) -> Metric:
    """The metric of a loss. For SNR, which has no hardest points, it is the cosine."""
    return "euclidean" if loss.metric == "euclidean" else "inner"


def _point(label: int, winners: Winners, at: tuple[int, int, int], rows: Int[np.ndarray, " b"]) -> Point:
    ends, weights = rows[winners.ends[at].numpy()].tolist(), winners.weights[at].tolist()
    kept = 2 if winners.is_synthetic[at] else 1
    return Point(label, tuple(ends[:kept]), tuple(weights[:kept]))


def _similarities(
    vectors: Float[Tensor, "b d"], winners: Winners, metric: Metric, normalize: bool
) -> Float[Tensor, "l c"]:
    """The similarity of every selected pair, computed from the inner products of the ends of their segments."""
    gram = vectors.double() @ vectors.double().T
    weights = winners.weights.double()
    within = gram[winners.ends[..., :, None], winners.ends[..., None, :]]
    squares = (weights[..., :, None] * within * weights[..., None, :]).sum(dim=(-2, -1))
    if normalize:
        scale = torch.where(winners.is_synthetic, squares.clamp(min=1e-12).rsqrt(), 1.0)
        weights, squares = weights * scale[..., None], squares * scale.square()
    first, second = winners.ends.unbind(dim=2)
    across = gram[first[..., :, None], second[..., None, :]]
    product = (weights[..., 0, :, None] * across * weights[..., 1, None, :]).sum(dim=(-2, -1))
    return product if metric == "inner" else 1 - (squares.sum(dim=-1) - 2 * product) / 2
