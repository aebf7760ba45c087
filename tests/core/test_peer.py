"""pytorch-metric-learning, the incumbent, wherever it can be set to the paper's definition.

| ours | its | what is set |
|---|---|---|
| contrastive, positive half | ContrastiveLoss | squared distances, mean over all; its negative hinge is not squared |
| triplet | TripletMarginLoss | squared distances, summed; divided here by the number of positive pairs |
| hphn_triplet | TripletMarginLoss + BatchHardMiner | mean over anchors |
| n_pair | NTXentLoss | temperature 1 / scale: no other positives in its denominator, so N-pair over all negatives |
| lifted_structure | LiftedStructureLoss | margin |
| multi_similarity | MultiSimilarityLoss | nothing, no miner |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.losses import LOSSES

from .batches import batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import distances, miners, reducers
    from pytorch_metric_learning import losses as peers

SQUARED = distances.LpDistance(power=2)


def positive_pairs(labels: Tensor) -> Tensor:
    return ((labels[:, None] == labels[None]).sum(1) - 1).sum()


def triplet(E: Tensor, labels: Tensor) -> Tensor:
    peer = peers.TripletMarginLoss(margin=0.2, distance=SQUARED, reducer=reducers.SumReducer())
    return peer(E, labels) / positive_pairs(labels)


def hphn_triplet(E: Tensor, labels: Tensor) -> Tensor:
    peer = peers.TripletMarginLoss(margin=0.2, reducer=reducers.MeanReducer())
    return peer(E, labels, miners.BatchHardMiner()(E, labels))


def n_pair(E: Tensor, labels: Tensor) -> Tensor:
    return peers.NTXentLoss(temperature=1 / 4)(E, labels)


def lifted_structure(E: Tensor, labels: Tensor) -> Tensor:
    return peers.LiftedStructureLoss(neg_margin=1.0, pos_margin=0.0)(E, labels)


def multi_similarity(E: Tensor, labels: Tensor) -> Tensor:
    return peers.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)(E, labels)


SAME: list[tuple[str, dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = [
    ("triplet", {}, triplet),
    ("hphn_triplet", {}, hphn_triplet),
    ("n_pair", {"scale": 4.0}, n_pair),
    ("lifted_structure", {}, lifted_structure),
    ("multi_similarity", {}, multi_similarity),
]


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 4, 2, 2)])
@pytest.mark.parametrize(("name", "parameters", "peer"), SAME, ids=[name for name, _, _ in SAME])
def test_loss_equals_the_incumbents(
    name: str, parameters: dict[str, Any], peer: Callable[[Tensor, Tensor], Tensor], sizes: tuple[int, ...]
) -> None:
    """Both normalise the rows themselves, so rows of any norm are handed in."""
    E, labels = batch(sizes, d=5, seed=6, unit=False)
    E.requires_grad_()
    labels = torch.unique(labels, return_inverse=True)[1]  # it casts large labels
    ours, theirs = LOSSES[name](**parameters)(E, labels), peer(E, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    (gradient,), (expected,) = (torch.autograd.grad(value, E) for value in (ours, theirs))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_positive_half_of_contrastive_equals_the_incumbents() -> None:
    E, labels = batch((3, 4, 2), d=5, seed=6, unit=False)
    peer = peers.ContrastiveLoss(pos_margin=0, neg_margin=0, distance=SQUARED, reducer=reducers.MeanReducer())
    terms = LOSSES["contrastive"]().per_anchor(E, labels)
    ours = terms.total[0].sum() / terms.weight[0].sum()
    theirs = peer(E, torch.unique(labels, return_inverse=True)[1])
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_multi_similarity_of_single_images_equals_the_incumbents() -> None:
    E, labels = batch((3, 1, 1), d=5, seed=6)
    labels = torch.unique(labels, return_inverse=True)[1]
    torch.testing.assert_close(LOSSES["multi_similarity"]()(E, labels), multi_similarity(E, labels), rtol=1e-6, atol=0)
