"""What is selected as hard negatives: the hardest pair of points of every two classes, in a few training batches."""

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
from embedding_expansion.core.sides import Scope
from embedding_expansion.core.wrapped import WrappedLoss
from embedding_expansion.training.evaluation import embed_images, model_embedder
from embedding_expansion.training.job import Job, make_sampler

IMAGES = 256  # looked at, in whole batches: at least one, at most three


@dataclass(frozen=True)
class Point:
    """An original or a synthetic point."""

    label: int
    images: tuple[int, ...]  # of the training set: one, or the two ends of the segment
    weights: tuple[float, ...]  # how much of each

    @property
    def is_synthetic(self) -> bool:
        """Whether it lies between two images."""
        return len(self.images) > 1


@dataclass(frozen=True)
class HardPair:
    """The points of two classes that are most alike."""

    anchor: Point
    negative: Point
    similarity: float
    similarity_of_originals: float  # of the most similar pair without synthetic points


@dataclass(frozen=True)
class Selection:
    """What was selected in a few batches."""

    pairs: list[HardPair]  # the hardest, of different pairs of classes
    counts: tuple[int, int, int]  # selected pairs with no synthetic point, with one, with two
    images: int  # that were looked at


def select(job: Job, count: int) -> Selection:
    """The hardest pairs of the first batches of training, by the model as it is now, images as they are tested.

    Without expansion they are pairs of images: the search is the same with n = 0. A memory takes no part. Classes with
    an image that cannot be read are left out.

    Raises:
        DataError: not one image of a batch can be read.
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
    """Embeddings of a batch, and which training images they are of; classes whole or not at all."""
    rows = make_sampler(job.train, job.config).batch(step)
    embed, broken = model_embedder(job.model, job.device, job.precision), dict[Path, str]()
    # Not by the job, which keeps what it has computed for a frozen backbone, and which images were broken in training.
    vectors, _ = embed_images(embed, job.train.subset(rows), job.test_transform, workers=job.workers, broken=broken)
    readable = np.array([job.train.path(row) not in broken for row in rows.tolist()])
    whole = ~np.isin(job.train.labels[rows], job.train.labels[rows[~readable]])
    return vectors.cpu()[torch.from_numpy(whole[readable])], rows[whole]


def _pairs_of(job: Job, vectors: Float[Tensor, "b d"], rows: Int[np.ndarray, " b"]) -> list[HardPair]:
    """The selected pairs of all classes of a batch, in anchor scope of all anchors."""
    labels = job.train.labels[rows]
    classes = np.unique(labels)
    if len(classes) < 2:
        return []
    expansion = job.config.expansion
    n = 0 if expansion.n == "none" else math.inf if expansion.n == "inf" else expansion.n
    scope: Scope = "class_pair" if expansion.n == "none" else expansion.scope
    metric = _metric(job.loss)
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
    """What the loss inside all wrappers calls similar; of one on SNR, which has no hardest points, the cosine."""
    while isinstance(loss, WrappedLoss):
        loss = loss.loss
    return "euclidean" if loss.metric == "euclidean" else "inner"


def _point(label: int, winners: Winners, at: tuple[int, int, int], rows: Int[np.ndarray, " b"]) -> Point:
    ends, weights = rows[winners.ends[at].numpy()].tolist(), winners.weights[at].tolist()
    kept = 2 if winners.is_synthetic[at] else 1
    return Point(label, tuple(ends[:kept]), tuple(weights[:kept]))


def _similarities(
    vectors: Float[Tensor, "b d"], winners: Winners, metric: Metric, normalize: bool
) -> Float[Tensor, "l c"]:
    """The similarity of the two points of every selected pair, read off the inner products of their ends."""
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
