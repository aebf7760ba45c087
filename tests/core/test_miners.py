"""Miners against slow loops, on plain and on expanded tables, and against the incumbent's."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand
from embedding_expansion.core.losses import HPHNTripletLoss, MarginLoss, MultiSimilarityLoss, TripletLoss
from embedding_expansion.core.miners import (
    BatchHardMiner,
    DistanceWeightedMiner,
    EasyPositiveMiner,
    MultiSimilarityMiner,
)
from embedding_expansion.core.pairs import Pairs, compare
from embedding_expansion.errors import InvalidInput

from .batches import batch, batch_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import miners as peer_miners

every_table = pytest.mark.parametrize("scope", [None, "class_pair", "anchor", "negative"])


def table(scope: str | None, seed: int = 0) -> Pairs:
    E, labels = batch_for(scope, seed)
    return compare(E, labels) if scope is None else expand(E, labels, 2, scope=scope)


def entries(values: Tensor, mask: Tensor) -> list[tuple[int, float]]:
    return [(k, float(values[k])) for k in range(len(mask)) if mask[k]]


@every_table
@pytest.mark.parametrize("seed", range(3))
def test_multi_similarity_keeps_what_is_harder_than_the_hardest_of_the_other_kind(scope: str | None, seed: int) -> None:
    pairs = table(scope, seed)
    mined = MultiSimilarityMiner(epsilon=0.05)(pairs)
    for i in range(len(pairs.positive)):
        positives = entries(pairs.positive[i], pairs.positive_mask[i])
        negatives = entries(pairs.negative[i], pairs.negative_mask[i])
        kept = {j for j, s in positives if negatives and s - 0.05 < max(t for _, t in negatives)}
        assert set(mined.positive_mask[i].nonzero().flatten().tolist()) == kept
        kept = {k for k, t in negatives if positives and t + 0.05 > min(s for _, s in positives)}
        assert set(mined.negative_mask[i].nonzero().flatten().tolist()) == kept


@every_table
def test_easy_positive_and_batch_hard_keep_one_of_a_kind(scope: str | None) -> None:
    pairs = table(scope)
    easy, hard = EasyPositiveMiner()(pairs), BatchHardMiner()(pairs)
    assert torch.equal(easy.negative_mask, pairs.negative_mask)
    for i in range(len(pairs.positive)):
        positives = entries(pairs.positive[i], pairs.positive_mask[i])
        negatives = entries(pairs.negative[i], pairs.negative_mask[i])
        both = positives and negatives
        for mask, chosen in (
            (easy.positive_mask[i], max(positives, key=lambda e: e[1], default=None)),
            (hard.positive_mask[i], min(positives, key=lambda e: e[1]) if both else None),
            (hard.negative_mask[i], max(negatives, key=lambda e: e[1]) if both else None),
        ):
            assert mask.nonzero().flatten().tolist() == ([] if chosen is None else [chosen[0]])


def test_batch_hard_makes_the_triplet_loss_hphn() -> None:
    E, labels = batch((3, 4, 2), seed=2)
    for wrap in (lambda loss: loss, EmbeddingExpansion):
        mined = wrap(TripletLoss(margin=0.3, squared=False, miner=BatchHardMiner()))(E, labels)
        torch.testing.assert_close(mined, wrap(HPHNTripletLoss(margin=0.3))(E, labels))


def test_multi_similarity_with_its_miner_equals_the_incumbents() -> None:
    E, labels = batch((3, 4, 2, 3), d=5, seed=6, unit=False)
    labels = torch.unique(labels, return_inverse=True)[1]
    theirs = peers.MultiSimilarityLoss()(E, labels, peer_miners.MultiSimilarityMiner(epsilon=0.1)(E, labels))
    ours = MultiSimilarityLoss(miner=MultiSimilarityMiner())(E, labels)
    assert abs(ours - MultiSimilarityLoss()(E, labels)) > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_distance_weighted_draws_as_many_negatives_as_there_are_positives() -> None:
    pairs = table(None)
    mined = DistanceWeightedMiner(4)(pairs)
    assert not (mined.negative_mask & ~pairs.negative_mask).any()
    wanted = torch.minimum(pairs.positive_mask.sum(1), pairs.negative_mask.sum(1))
    assert torch.equal(mined.negative_mask.sum(1), wanted)
    assert torch.equal(mined.positive_mask, pairs.positive_mask)


def test_distance_weighted_draws_in_inverse_proportion_to_the_density() -> None:
    """One anchor, one positive, negatives at chosen distances: 4,000 draws against equation 4."""
    distances = torch.tensor([0.3, 0.5, 0.8, 1.1, 1.35, 1.45, 1.9], dtype=torch.float64)
    n, draws = 6, 4000
    pairs = Pairs(
        positive=torch.zeros(draws, 1, dtype=torch.float64),
        positive_mask=torch.ones(draws, 1, dtype=torch.bool),
        negative=(1 - distances**2 / 2).expand(draws, -1),
        negative_mask=torch.ones(draws, len(distances), dtype=torch.bool),
        partner=None,
        per_class=False,
    )
    drawn = DistanceWeightedMiner(n, torch.Generator().manual_seed(0))(pairs).negative_mask.double().mean(0)
    weights = []
    for d in distances.tolist():
        d = max(d, 0.5)
        weights.append(0 if d > 1.4 else 1 / (d ** (n - 2) * math.sqrt(1 - d * d / 4) ** (n - 3)))
    expected = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    error = (expected * (1 - expected) / draws).sqrt()
    assert ((drawn - expected).abs() <= 4 * error).all()
    assert (drawn[-2:] == 0).all()


def test_a_generator_makes_the_draws_again_and_a_loss_takes_them() -> None:
    E, labels = batch((3, 4, 2), seed=2)
    values = [
        wrap(MarginLoss(miner=DistanceWeightedMiner(4, torch.Generator().manual_seed(1))))(E, labels)
        for wrap in (lambda loss: loss, lambda loss: loss, EmbeddingExpansion)
    ]
    assert values[0] == values[1]
    assert all(value.isfinite() for value in values)
    with pytest.raises(InvalidInput, match="of at least 3"):
        DistanceWeightedMiner(2)
