"""What of pytorch-metric-learning EmbeddingExpansion refuses, with the loss's name and the reason."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion import CrossBatchMemory, DistributedLoss, EasyPositiveMiner, EmbeddingExpansion, TripletLoss
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName

from .peer_losses import LOOPS, SAME, peer_batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import distances, miners, reducers
    from pytorch_metric_learning import losses as peers

D = 4
PROXY = "compares images with learnt proxies"
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "AngularLoss": ((), "computes inner products by itself"),
    "NPairsLoss": ((), "compares one pair per class"),
    "SignalToNoiseRatioContrastiveLoss": ((), "does not follow from inner products"),
    "ThresholdConsistentMarginLoss": ((), "computes cosines by itself"),
    "VICRegLoss": ((), "without labels"),
    "ManifoldLoss": ((D,), "without labels"),
    "DynamicSoftMarginLoss": ((), "a second backward pass fails"),
    "InstanceLoss": ((), "the columns of its table are classes"),
    "ArcFaceLoss": ((3, D), PROXY),
    "CosFaceLoss": ((3, D), PROXY),
    "LargeMarginSoftmaxLoss": ((3, D), PROXY),
    "NormalizedSoftmaxLoss": ((3, D), PROXY),
    "P2SGradLoss": ((D, 3), PROXY),
    "ProxyAnchorLoss": ((3, D), PROXY),
    "ProxyNCALoss": ((3, D), PROXY),
    "SoftTripleLoss": ((3, D), PROXY),
    "SphereFaceLoss": ((3, D), PROXY),
    "SubCenterArcFaceLoss": ((), PROXY),
    "CrossBatchMemory": ((peers.ContrastiveLoss(), D), "holds another loss"),
    "SelfSupervisedLoss": ((peers.ContrastiveLoss(),), "holds another loss"),
    "MultipleLosses": (([peers.ContrastiveLoss()],), "holds several losses"),
    "BaseMetricLossFunction": ((), "fails with NotImplementedError"),
    "GenericPairLoss": ((True,), "fails with TypeError"),
}
NO_LOSSES = {"BaseLossWrapper", "EmbeddingRegularizerMixin", "WeightRegularizerMixin"}


def made(name: str) -> Any:
    named = {"num_classes": 3, "embedding_size": D} if name == "SubCenterArcFaceLoss" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(peers, name)(*REFUSED[name][0], **named)


def test_every_loss_of_the_library_either_works_or_is_refused() -> None:
    there = {name for name, found in vars(peers).items() if inspect.isclass(found)}
    works = {name.split(",")[0] for name in (*SAME, *LOOPS)}
    assert not works & set(REFUSED)
    assert there - NO_LOSSES == works | set(REFUSED)


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_does_not_read_a_table_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{name} cannot be expanded: .*{REFUSED[name][1]}"):
        EmbeddingExpansion(made(name))


def test_a_class_is_not_an_instance_and_a_miner_is_no_loss() -> None:
    with pytest.raises(InvalidType, match=r"is the class TripletMarginLoss; pass an instance, TripletMarginLoss\(\)"):
        EmbeddingExpansion(peers.TripletMarginLoss)
    with pytest.raises(InvalidType, match="loss is a BatchHardMiner; pass one of"):
        EmbeddingExpansion(miners.BatchHardMiner())
    with pytest.raises(InvalidType, match="loss is a CosineSimilarity; pass one of"):
        EmbeddingExpansion(distances.CosineSimilarity())
    with pytest.raises(InvalidType, match=r"miner is .*; pass an instance"):
        EmbeddingExpansion(TripletLoss(), miner=miners.BatchHardMiner)


class Offset(distances.LpDistance):
    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
        return super().compute_mat(query_emb, ref_emb) + 0.5


BAD_DISTANCES = [
    (distances.SNRDistance(), "SNRDistance .* does not follow from inner products"),
    (distances.LpDistance(p=1), "LpDistance .* p=1 .* use p=2"),
    (distances.LpDistance(power=-1), "to the power -1"),
    (distances.CosineSimilarity(power=2), "CosineSimilarity .* to the power 2.* odd"),
    (distances.DotProductSimilarity(p=1), "normalises by the norm of p=1"),
    (distances.BatchedDistance(distances.LpDistance()), "BatchedDistance .* does not follow from inner products"),
    (Offset(), "has a Offset, which does not follow from inner products as its base class does"),
]


@pytest.mark.parametrize(("own", "reason"), BAD_DISTANCES, ids=[type(own).__name__ for own, _ in BAD_DISTANCES])
def test_a_distance_that_does_not_follow_from_inner_products_is_refused_by_name(own: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^TripletMarginLoss.*{reason}"):
        EmbeddingExpansion(peers.TripletMarginLoss(distance=own))


class Own(peers.ContrastiveLoss):
    """A user's class that works."""

    def neg_calc(self, neg_pair_dist: Tensor, margin: float) -> Tensor:
        return super().neg_calc(neg_pair_dist, margin) ** 2


class Reduced(peers.BaseMetricLossFunction):
    """A user's loss of the mean that `of` gives."""

    of: Callable[[Tensor, Tensor], Tensor]

    def compute_loss(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any, ref_emb: Any, ref_labels: Any
    ) -> Any:
        return {"loss": {"losses": self.of(embeddings, labels), "indices": None, "reduction_type": "already_reduced"}}


class Blind(Reduced):
    def of(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return embeddings.square().mean()


class PositivesOnly(Reduced):
    def of(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.distance(embeddings)[labels[:, None] == labels].mean()


class AnotherTable(Reduced):
    def of(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        own = type(self.distance).__name__ == "LpDistance"
        return self.distance(embeddings).mean() * (1 if own else 2)


class WholeTable(Reduced):
    def of(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.distance(embeddings)[labels[:, None] != labels].mean()


class NormalisesBefore(Reduced):
    def of(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.distance(torch.nn.functional.normalize(embeddings)).mean()


class Parts(Reduced):
    def of(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.distance(embeddings[::2], embeddings[1::2]).mean()


class NotANumber(Reduced):
    def of(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.distance(embeddings).mean() * torch.nan


USERS = [
    (Blind, "does not call its distance"),
    (PositivesOnly, "returns the same value for an expanded table as for a plain one"),
    (AnotherTable, "returns another value for the table of its distance than by itself"),
    (WholeTable, "reads pairs other than the given ones"),
    (NormalisesBefore, "fails with InvalidInput: the loss asks its distance for points other than"),
    (Parts, "fails with InvalidInput: the loss asks its distance for points other than"),
    (NotANumber, "does not return a finite number"),
]


def test_a_users_own_loss_that_reads_its_pairs_works() -> None:
    E, labels = peer_batch("")
    given, plain = EmbeddingExpansion(Own())(E, labels), EmbeddingExpansion(peers.ContrastiveLoss())(E, labels)
    assert given.isfinite()
    assert given != plain


@pytest.mark.parametrize(("loss", "reason"), USERS, ids=[loss.__name__ for loss, _ in USERS])
def test_a_users_own_loss_that_does_not_is_found_out(loss: Any, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{loss.__name__} cannot be expanded: .*{reason}"):
        EmbeddingExpansion(loss())


def test_a_reducer_that_gives_no_scalar_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"TripletMarginLoss cannot be expanded: .* returns a dict and not a scalar"):
        EmbeddingExpansion(peers.TripletMarginLoss(reducer=reducers.DoNothingReducer()))


def test_refusing_leaves_the_loss_and_the_random_numbers_as_they_are() -> None:
    loss = peers.NPairsLoss()
    before, state = loss.distance, torch.get_rng_state()
    for given in (loss, WholeTable()):
        with pytest.raises(InvalidInput):
            EmbeddingExpansion(given)
    assert loss.distance is before
    assert torch.equal(torch.get_rng_state(), state)


OPTIONS = [
    ({"reduction": "none"}, "reduction is 'none', but MultiSimilarityLoss returns one number"),
    ({"chunk": 4}, "chunk is 4, but MultiSimilarityLoss returns one number"),
    ({"normalize": False}, "normalize is False, but the distance .* has normalize_embeddings=True, which decides"),
]


@pytest.mark.parametrize(("options", "reason"), OPTIONS)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        EmbeddingExpansion(peers.MultiSimilarityLoss(), **options)


def test_options_that_say_what_is_so_anyway_are_taken_and_unknown_ones_named() -> None:
    E, labels = peer_batch("")
    plain = EmbeddingExpansion(peers.MultiSimilarityLoss())(E, labels)
    told = EmbeddingExpansion(peers.MultiSimilarityLoss(), normalize=True, chunk=None, reduction="mean")
    assert torch.equal(told(E, labels), plain)
    with pytest.raises(UnknownName, match="there is no parameter of EmbeddingExpansion named 'chunks'"):
        EmbeddingExpansion(peers.MultiSimilarityLoss(), chunks=3)


def test_losses_that_read_the_table_across_are_not_for_anchor_scope() -> None:
    with pytest.raises(InvalidInput, match=r'^HistogramLoss takes \(i, k\) and \(k, i\) for one pair.*"class_pair"'):
        EmbeddingExpansion(peers.HistogramLoss(), scope="anchor")


@pytest.mark.parametrize("name", ["FastAPLoss", "NCALoss", "RankedListLoss", "PNPLoss", "SmoothAPLoss"])
@pytest.mark.parametrize("miner", [miners.BatchHardMiner(), EasyPositiveMiner()])
def test_a_loss_that_takes_no_pairs_takes_no_miner(name: str, miner: Any) -> None:
    loss = SAME[name][0] if name in SAME else LOOPS[name][0]()
    with pytest.raises(InvalidInput, match=f"miner is a {type(miner).__name__}, but {name} takes no pairs"):
        EmbeddingExpansion(loss, miner=miner)


def test_rows_a_memory_and_a_reference_are_refused_with_the_reason() -> None:
    E, labels = peer_batch("")
    loss = EmbeddingExpansion(peers.SupConLoss())
    from_memory = torch.zeros(len(E), dtype=torch.bool)
    from_memory[0] = True
    for given in ({"rows": torch.tensor([0])}, {"from_memory": from_memory}):
        with pytest.raises(InvalidInput, match="rows or from_memory is given, but SupConLoss returns one number"):
            loss(E, labels, **given)
    with pytest.raises(InvalidInput, match="reference is given, but SupConLoss returns one number"):
        loss(E, labels, reference=E, reference_labels=labels)


def test_neither_ranks_nor_a_memory_can_share_a_number() -> None:
    loss = EmbeddingExpansion(peers.SupConLoss())
    with pytest.raises(InvalidInput, match="ranks cannot share this loss: SupConLoss returns one number"):
        DistributedLoss(loss)
    with pytest.raises(InvalidInput, match="CrossBatchMemory cannot wrap this loss: SupConLoss returns one number"):
        CrossBatchMemory(loss, embedding_size=4)


def test_bad_batches_get_our_sentences() -> None:
    loss = EmbeddingExpansion(peers.SupConLoss())
    with pytest.raises(InvalidInput, match=re.escape("labels has 2 entries but embeddings has 3 rows")):
        loss(torch.randn(3, 4), [0, 1])
    with pytest.raises(InvalidInput, match="NaN"):
        loss(torch.full((4, 4), torch.nan), [0, 0, 1, 1])


def test_a_foreign_expansion_is_not_expanded_again() -> None:
    with pytest.raises(InvalidType, match="loss is an EmbeddingExpansion"):
        EmbeddingExpansion(copy.deepcopy(EmbeddingExpansion(peers.SupConLoss())))
