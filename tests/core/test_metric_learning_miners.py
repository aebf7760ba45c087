"""Miners of pytorch-metric-learning on our tables: what they return, read by loops, is what is left of the table."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion import (
    BatchHardMiner,
    CrossBatchMemory,
    EasyPositiveMiner,
    EmbeddingExpansion,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    MultiSimilarityMiner,
    ProxyNCALoss,
    TripletLoss,
)
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.errors import InvalidInput, InvalidType

from .batches import batch, batch_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import miners

MINERS: dict[str, Any] = {
    "AngularMiner": miners.AngularMiner(angle=25),
    "BatchEasyHardMiner": miners.BatchEasyHardMiner(),
    "BatchEasyHardMiner, pairs": miners.BatchEasyHardMiner(pos_strategy="all", neg_strategy="hard"),
    "BatchHardMiner": miners.BatchHardMiner(),
    "DistanceWeightedMiner": miners.DistanceWeightedMiner(),
    "EmbeddingsAlreadyPackagedAsTriplets": miners.EmbeddingsAlreadyPackagedAsTriplets(),
    "HDCMiner": miners.HDCMiner(),
    "MultiSimilarityMiner": miners.MultiSimilarityMiner(epsilon=0.05),
    "PairMarginMiner": miners.PairMarginMiner(),
    "TripletMarginMiner": miners.TripletMarginMiner(margin=0.1),
    "TripletMarginMiner, semihard": miners.TripletMarginMiner(margin=0.3, type_of_triplets="semihard"),
    "UniformHistogramMiner": miners.UniformHistogramMiner(num_bins=5, pos_per_bin=2, neg_per_bin=2),
}
every_miner = pytest.mark.parametrize("name", list(MINERS))
SCOPES = [None, "class_pair", "anchor", "negative"]


def with_scope(loss: PairLoss, scope: str | None, **options: Any) -> PairLoss:
    return loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope, **options)


def rows_for(name: str, scope: str | None) -> tuple[Tensor, Tensor]:
    """Triplets that come packaged are rows a, p, n, a, p, n, ..."""
    if name.startswith("EmbeddingsAlready"):
        labels = torch.tensor([0, 0, 1, 2, 2, 1, 0, 0, 2, 1, 1, 2])
        return torch.randn(12, 4, dtype=torch.float64), labels
    return batch_for(scope, seed=3, unit=False)


def chosen(miner: Any, E: Tensor, labels: Tensor) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """The positive and the negative pairs of rows, of the same random numbers."""
    torch.manual_seed(5)
    found = [rows.tolist() for rows in miner(E, torch.unique(labels, return_inverse=True)[1])]
    a1, p, a2, n = found if len(found) == 4 else (found[0], found[1], found[0], found[2])
    return set(zip(a1, p, strict=True)), set(zip(a2, n, strict=True))


def left(pairs: Pairs, labels: Tensor, scope: str | None) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """The positives as pairs of rows, the negatives as pairs of a row and a column."""
    positives = set()
    for i in range(len(labels)):
        rows = [j for j in range(len(labels)) if labels[j] == labels[i] and j != i]
        positives |= {(i, rows[k]) for k in pairs.positive_mask[i].nonzero().flatten().tolist()}
    return positives, {tuple(pair) for pair in pairs.negative_mask[: len(labels)].nonzero().tolist()}


def test_every_miner_of_the_library_is_tested() -> None:
    there = {name for name, found in vars(miners).items() if inspect.isclass(found)}
    assert there - {"BaseMiner"} == {name.split(",")[0] for name in MINERS}


@pytest.mark.parametrize("scope", SCOPES)
@every_miner
def test_the_pairs_that_are_left_are_those_that_it_chooses(name: str, scope: str | None) -> None:
    miner = MINERS[name]
    E, labels = rows_for(name, scope)
    if name.startswith("EmbeddingsAlready") and scope == "anchor":
        scope = "class_pair"  # rows are not paired there
    positives, negatives = chosen(miner, torch.nn.functional.normalize(E), labels)
    classes = torch.unique(labels).tolist()
    positives = {(i, j) for i, j in positives if labels[i] == labels[j] and i != j}
    negatives = {(i, j) for i, j in negatives if labels[i] != labels[j]}
    if scope is not None:
        negatives = {(i, classes.index(int(labels[j]))) for i, j in negatives}
    for mined in (
        with_scope(TripletLoss(miner=miner), scope),
        with_scope(TripletLoss(), scope, **({} if scope is None else {"miner": miner})),
    ):
        if mined.miner is None:
            continue
        torch.manual_seed(5)
        pairs, _ = mined.table(E, labels)
        assert left(pairs, labels, scope) == (positives, negatives)
        assert positives
        assert negatives


@pytest.mark.parametrize("scope", SCOPES)
def test_rows_of_negatives_that_only_partners_read_are_mined_as_those_of_anchors(scope: str | None) -> None:
    E, labels = batch_for(scope)
    rows = torch.tensor([0, 3])
    mined = with_scope(LiftedStructureLoss(miner=miners.BatchHardMiner()), scope)
    some, whole = (mined.terms(*mined.table(E, labels, **given)) for given in ({"rows": rows}, {}))
    torch.testing.assert_close(some.total, whole.total[:, rows])
    assert (mined.table(E, labels, rows=rows)[0].negative_mask.sum(1) == 1).all()


def test_its_multi_similarity_miner_and_ours_are_one_on_a_plain_table() -> None:
    E, labels = batch((3, 4, 2, 3), d=5, seed=6, unit=False)
    theirs = MultiSimilarityLoss(miner=miners.MultiSimilarityMiner(epsilon=0.1))(E, labels)
    torch.testing.assert_close(theirs, MultiSimilarityLoss(miner=MultiSimilarityMiner())(E, labels))


def test_labels_of_any_size_are_told_apart() -> None:
    E, labels = batch((3, 2, 3), seed=2)
    loss = EmbeddingExpansion(MultiSimilarityLoss(), miner=miners.MultiSimilarityMiner())
    expected = loss(E, labels)
    moved = torch.unique(labels, return_inverse=True)[1] + 2**60
    torch.testing.assert_close(loss(E, moved), expected)


def test_a_reference_and_a_memory_are_mined_as_well() -> None:
    E, labels = batch((3, 2, 3), seed=2)
    R, reference_labels = batch((2, 3, 2), seed=4)
    miner = miners.BatchHardMiner()
    for scope in (None, "class_pair"):
        loss = with_scope(TripletLoss(miner=miner), scope)
        pairs, _ = loss.table(E, labels, reference=R, reference_labels=reference_labels)
        assert (pairs.positive_mask.sum(1) == 1).all()
        assert (pairs.negative_mask.sum(1) == 1).all()
        memory = CrossBatchMemory(with_scope(TripletLoss(), scope), embedding_size=4, size=16, miner=miner).double()
        assert all(memory(E, labels).isfinite() for _ in range(3))


FOREIGN = [  # losses of pairs and of triplets, by value the losses of ours with the same mined table
    (peers.TripletMarginLoss(), "triplet", {"margin": 0.05, "squared": False, "average": "active"}),
    (peers.ContrastiveLoss(), "contrastive", {"squared": False, "average": "active"}),
    (peers.MultiSimilarityLoss(), "multi_similarity", {}),
    (peers.CircleLoss(), "circle", {}),
    (peers.NTXentLoss(), "nt_xent", {}),
]
OURS = {
    "MultiSimilarityMiner of ours": MultiSimilarityMiner(),
    "BatchHardMiner of ours": BatchHardMiner(),
    "EasyPositiveMiner of ours": EasyPositiveMiner(),
}


@pytest.mark.parametrize("miner", [*MINERS.values(), *OURS.values()], ids=[*MINERS, *OURS])
@pytest.mark.parametrize(("peer", "name", "parameters"), FOREIGN, ids=[name for _, name, _ in FOREIGN])
def test_foreign_losses_read_the_mined_table_as_ours_do(
    peer: Any, name: str, parameters: dict[str, Any], miner: Any
) -> None:
    E, labels = rows_for(type(miner).__name__ if miner not in OURS.values() else "", "class_pair")
    # Unit rows: one miner does not normalise, and our losses do so before it.
    E, labels = torch.nn.functional.normalize(E).requires_grad_(), torch.unique(labels, return_inverse=True)[1]
    values = []
    for loss in (peer, LOSSES[name](**parameters)):
        torch.manual_seed(5)
        values.append(EmbeddingExpansion(loss, miner=miner)(E, labels))
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-8)
    gradients = [torch.autograd.grad(value, E)[0] for value in values]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


class Scores(miners.BaseMiner):
    """A user's miner of something else."""

    def mine(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> Any:
        return embeddings

    def output_assertion(self, output: Any) -> None:
        pass


def test_what_cannot_be_mined_is_refused() -> None:
    E, labels = batch((2, 2), seed=1)
    with pytest.raises(InvalidInput, match="BatchHardMiner mines whole batches, but chunk is 4"):
        TripletLoss(miner=miners.BatchHardMiner(), chunk=4)
    with pytest.raises(InvalidInput, match=r"BatchHardMiner chooses pairs of images, but the loss compares .* proxies"):
        ProxyNCALoss(2, 4, miner=miners.BatchHardMiner())(E.float(), [0, 0, 1, 1])
    with pytest.raises(InvalidType, match="Scores returns a Tensor; pass a miner that returns"):
        TripletLoss(miner=Scores())(E, labels)


@pytest.mark.filterwarnings("ignore::embedding_expansion.errors.DegenerateBatchWarning")
@every_miner
def test_an_empty_batch_is_no_error(name: str) -> None:
    for loss in (TripletLoss(miner=MINERS[name]), EmbeddingExpansion(peers.TripletMarginLoss(), miner=MINERS[name])):
        assert loss(torch.zeros(0, 4), []) == 0
