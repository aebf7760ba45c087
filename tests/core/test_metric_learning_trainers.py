"""Trainers and wrappers of pytorch-metric-learning around this package's losses, against a loop written out here."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from embedding_expansion import (
    ContrastiveLoss,
    CrossBatchMemory,
    DistributedLoss,
    EmbeddingExpansion,
    MultiSimilarityLoss,
    MultiSimilarityMiner,
    ProxyAnchorLoss,
    TripletLoss,
    retrieval_metrics,
)
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.errors import InvalidInput

from .batches import batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers
    from pytorch_metric_learning import miners, testers, trainers
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

# Their trainer prints the loss as a number, of which torch warns.
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")

CLASSES, STEPS, BATCH = 6, 3, 8
INPUTS = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24) % CLASSES
ORDER = torch.randperm(24, generator=torch.Generator().manual_seed(2)).tolist()
CPU = torch.device("cpu")

KINDS: dict[str, Callable[..., Any]] = {
    "plain": lambda **options: MultiSimilarityLoss(**options),
    "expanded": lambda **options: EmbeddingExpansion(MultiSimilarityLoss(), **options),
    "theirs, expanded": lambda **options: EmbeddingExpansion(peers.TripletMarginLoss(), **options),
    "memory": lambda: CrossBatchMemory(TripletLoss(), embedding_size=4, size=64),
    "memory, expanded": lambda: CrossBatchMemory(EmbeddingExpansion(TripletLoss()), embedding_size=4, size=64),
    "distributed": lambda **options: DistributedLoss(EmbeddingExpansion(TripletLoss(), **options)),
    "proxies": lambda: ProxyAnchorLoss(CLASSES, 4),
    "proxies, expanded": lambda: EmbeddingExpansion(ProxyAnchorLoss(CLASSES, 4)),
}


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return INPUTS[row], LABELS[row]


class TwoStreams(Rows):
    def __getitem__(self, row: int) -> Any:
        return INPUTS[row], INPUTS[(row + CLASSES) % 24], LABELS[row]  # another image of its class


class InOrder(Sampler[int]):
    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        return iter(ORDER)

    def __len__(self) -> int:
        return len(ORDER)


def parts_of(loss: nn.Module) -> tuple[nn.Module, list[torch.optim.Optimizer]]:
    """A linear model, and optimisers of its weight and of what the loss learns."""
    torch.manual_seed(3)
    model = nn.Linear(6, 4)
    learnt = [torch.optim.SGD(part.parameters(), 0.1) for part in (model, loss) if list(part.parameters())]
    return model, list(learnt)


def trained(trainer: Any, loss: nn.Module, data: Dataset[Any], miner: Any = None, **more: Any) -> nn.Module:
    """The model after three steps of a trainer of theirs."""
    logging.getLogger("PML").setLevel(logging.ERROR)  # it warns that there is no embedder
    model, learnt = parts_of(loss)
    models, functions = more.get("models", {}), more.get("loss_funcs", {})
    trainer(
        models={"trunk": model, **models},
        optimizers=dict(zip(("trunk_optimizer", "metric_loss_optimizer"), learnt, strict=False)),
        batch_size=BATCH,
        loss_funcs={"metric_loss": loss, **functions},
        dataset=data,
        mining_funcs={} if miner is None else {"tuple_miner": miner},
        sampler=InOrder(),
        iterations_per_epoch=STEPS,
        dataloader_num_workers=0,
        data_device=CPU,
    ).train(num_epochs=1)
    return model


def looped(loss: nn.Module, call: Callable[[nn.Module, Any, list[int]], Tensor]) -> nn.Module:
    """The model after three steps of `call(model, loss, rows)`."""
    model, learnt = parts_of(loss)
    for step in range(STEPS):
        for optimizer in learnt:
            optimizer.zero_grad()
        call(model, loss, ORDER[BATCH * step : BATCH * step + BATCH]).backward()
        for optimizer in learnt:
            optimizer.step()
    return model


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    before = parts_of(nn.Identity())[0].weight
    torch.testing.assert_close(found.weight, expected.weight)
    assert not torch.equal(found.weight, before)


def plainly(model: nn.Module, loss: Any, rows: list[int]) -> Tensor:
    value: Tensor = loss(model(INPUTS[rows]), LABELS[rows])
    return value


@pytest.mark.parametrize("kind", list(KINDS))
def test_their_trainer_trains_with_every_loss(kind: str) -> None:
    loss = KINDS[kind]()
    found = trained(trainers.MetricLossOnly, copy.deepcopy(loss), Rows())
    assert_same(found, looped(loss, plainly))


@pytest.mark.parametrize("miner", [miners.BatchHardMiner(), miners.PairMarginMiner(0.5, 1.3), MultiSimilarityMiner()])
@pytest.mark.parametrize("kind", ["plain", "expanded", "theirs, expanded", "distributed"])
def test_with_a_miner_it_is_the_loss_with_that_miner(kind: str, miner: Any) -> None:
    found = trained(trainers.MetricLossOnly, KINDS[kind](), Rows(), miner)
    inside = miner
    if isinstance(miner, MultiSimilarityMiner):
        inside = miners.MultiSimilarityMiner(
            epsilon=miner.epsilon
        )  # which sees the plain batch, as ours does so called
    assert_same(found, looped(KINDS[kind](miner=inside), plainly))


@pytest.mark.parametrize("kind", ["memory", "memory, expanded"])
def test_with_a_memory_it_mines_the_batch(kind: str) -> None:
    miner = miners.PairMarginMiner(0.5, 1.3)

    def with_pairs(model: nn.Module, loss: Any, rows: list[int]) -> Tensor:
        embeddings = model(INPUTS[rows])
        value: Tensor = loss(embeddings, LABELS[rows], indices_tuple=miner(embeddings.detach(), LABELS[rows]))
        return value

    found = trained(trainers.MetricLossOnly, KINDS[kind](), Rows(), miner)
    assert_same(found, looped(KINDS[kind](), with_pairs))


def test_with_proxies_its_miner_gets_a_sentence() -> None:
    for kind in ("proxies", "proxies, expanded"):
        with pytest.raises(
            InvalidInput, match="indices_tuple is given, but ProxyAnchorLoss compares images with proxies"
        ):
            trained(trainers.MetricLossOnly, KINDS[kind](), Rows(), miners.BatchHardMiner())


def test_two_streams_and_a_classifier() -> None:
    def two(model: nn.Module, loss: Any, rows: list[int]) -> Tensor:
        others = [(row + CLASSES) % 24 for row in rows]
        value: Tensor = loss(
            model(INPUTS[rows]), LABELS[rows], reference=model(INPUTS[others]), reference_labels=LABELS[others]
        )
        return value

    found = trained(trainers.TwoStreamMetricLoss, ContrastiveLoss(average="active"), TwoStreams())
    assert_same(found, looped(ContrastiveLoss(average="active"), two))

    classifier = nn.Linear(4, CLASSES)

    def classified(model: nn.Module, loss: Any, rows: list[int]) -> Tensor:
        return plainly(model, loss, rows) + nn.functional.cross_entropy(classifier(model(INPUTS[rows])), LABELS[rows])

    more = {"models": {"classifier": classifier}, "loss_funcs": {"classifier_loss": nn.CrossEntropyLoss()}}
    found = trained(trainers.TrainWithClassifier, KINDS["expanded"](), Rows(), **more)
    assert_same(found, looped(KINDS["expanded"](), classified))


def test_several_losses_are_their_sum() -> None:
    E, labels = batch((3, 4, 2, 3), seed=6)
    numbers = torch.unique(labels, return_inverse=True)[1]
    made = {name.replace(", ", "_"): KINDS[name]() for name in KINDS}
    for loss in made.values():
        loss.double().eval()
    expected = torch.stack([loss(E, numbers) for loss in made.values()])
    for several in (peers.MultipleLosses(made), peers.MultipleLosses(list(made.values()))):
        torch.testing.assert_close(several(E, numbers), expected.sum())
    weights = {name: float(k) for k, name in enumerate(made)}
    weighted = peers.MultipleLosses(made, weights=weights)
    torch.testing.assert_close(weighted(E, numbers), (expected * torch.arange(len(made))).sum())


def test_several_losses_with_a_miner_each() -> None:
    E, labels = batch((3, 4, 2, 3), seed=6)
    hard, margin = miners.BatchHardMiner(), miners.PairMarginMiner(0.5, 1.3)
    found = peers.MultipleLosses(
        {"plain": TripletLoss(), "expanded": KINDS["expanded"](), "proxies": ProxyAnchorLoss(4, 4).double()},
        miners={"plain": hard, "expanded": margin},
    )
    numbers = torch.unique(labels, return_inverse=True)[1]
    parts = TripletLoss(miner=hard), KINDS["expanded"](miner=margin), found.losses["proxies"]
    torch.testing.assert_close(found(E, numbers), sum(part(E, numbers) for part in parts))
    one = peers.MultipleLosses([TripletLoss(), KINDS["theirs, expanded"]()])
    expected = TripletLoss(miner=hard)(E, labels) + KINDS["theirs, expanded"](miner=hard)(E, labels)
    torch.testing.assert_close(one(E, labels, hard(E, numbers)), expected)
    with pytest.raises(TypeError, match="MultiSimilarityMiner is not a Module subclass"):
        peers.MultipleLosses([TripletLoss()], miners=[MultiSimilarityMiner()])


EQUAL: list[tuple[Any, str, dict[str, Any]]] = [
    (peers.ContrastiveLoss, "contrastive", {"squared": False, "average": "active"}),
    (peers.MultiSimilarityLoss, "multi_similarity", {}),
    (peers.CircleLoss, "circle", {}),
    (peers.NTXentLoss, "nt_xent", {}),
]
every_equal = pytest.mark.parametrize(("peer", "name", "parameters"), EQUAL, ids=[name for _, name, _ in EQUAL])


@every_equal
@pytest.mark.parametrize("mined", [None, "theirs", "ours"])
def test_their_memory_around_ours(peer: Any, name: str, parameters: dict[str, Any], mined: str | None) -> None:
    """It compares the batch with its queue, and names the pairs that are none of a row with itself."""
    miner = {"theirs": miners.MultiSimilarityMiner(), "ours": MultiSimilarityMiner()}.get(mined or "")
    by_hand = LOSSES[name](**parameters)
    around_theirs, around_ours = (peers.CrossBatchMemory(loss, 5, 24, miner) for loss in (peer(), by_hand))
    queue, queued = torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    for step in range(3):
        E, labels = batch((3, 4, 2, 3), d=5, seed=step)
        E.requires_grad_()
        value = around_ours(E, labels)
        torch.testing.assert_close(value, around_theirs(E, labels))
        if mined is None and step < 2:
            queue, queued = torch.cat([queue, E.detach()]), torch.cat([queued, labels])
            same = labels[:, None] == queued
            other = (~same).nonzero(as_tuple=True)
            same[torch.arange(12), torch.arange(12) + 12 * step] = False
            chosen = *same.nonzero(as_tuple=True), *other
            explicit = by_hand(E, labels, chosen, reference=queue, reference_labels=queued)
            torch.testing.assert_close(value, explicit)
            gradients = (torch.autograd.grad(found, E)[0] for found in (value, explicit))
            torch.testing.assert_close(*gradients)


def test_pairs_that_their_memory_adds_to_all_pairs_count_once() -> None:
    E, labels = batch((3, 4, 2, 3), d=5, seed=6)
    pairs = miners.PairMarginMiner(0.1, 1.2)(E, labels)
    values = [peers.CrossBatchMemory(ContrastiveLoss(), 5, 24)(E, labels, given) for given in (None, pairs)]
    torch.testing.assert_close(*values)


@every_equal
@pytest.mark.parametrize("symmetric", [True, False])
def test_their_self_supervision_around_ours(peer: Any, name: str, parameters: dict[str, Any], symmetric: bool) -> None:
    E, R = batch((3, 4, 2, 3), d=5, seed=6)[0], batch((3, 4, 2, 3), d=5, seed=7)[0]
    rows, ours = torch.arange(len(E)), LOSSES[name](**parameters)
    found = peers.SelfSupervisedLoss(ours, symmetric=symmetric)(E, R)
    torch.testing.assert_close(found, peers.SelfSupervisedLoss(peer(), symmetric=symmetric)(E, R))
    explicit = (
        ours(torch.cat([E, R]), rows.repeat(2)) if symmetric else ours(E, rows, reference=R, reference_labels=rows)
    )
    torch.testing.assert_close(found, explicit)


def test_their_wrappers_say_what_they_do_not_hold() -> None:
    for loss in (TripletLoss(), EmbeddingExpansion(ContrastiveLoss()), ProxyAnchorLoss(4, 4)):
        name = type(loss).__name__
        with pytest.raises(Exception, match=f"CrossBatchMemory not supported for {name}"):
            peers.CrossBatchMemory(loss, 4)
        with pytest.raises(Exception, match=f"SelfSupervisedLoss not supported for {name}"):
            peers.SelfSupervisedLoss(loss)
        with pytest.raises(TypeError, match="The input loss must extend BaseMetricLossFunction or CrossBatchMemory"):
            DistributedLossWrapper(loss)


def test_their_tester_finds_what_our_measures_find() -> None:
    pytest.importorskip("faiss", reason="their tester searches with faiss")
    model = parts_of(nn.Identity())[0]
    include = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=include, k=len(LABELS) - 1, device=CPU)
    tester = testers.GlobalEmbeddingSpaceTester(
        batch_size=BATCH, dataloader_num_workers=0, data_device=CPU, accuracy_calculator=calculator
    )
    theirs = tester.test({"rows": Rows()}, 1, model)["rows"]
    ours = retrieval_metrics(model(INPUTS).detach(), LABELS)
    for name, known in zip(include, ("precision_at_1", "r_precision", "map_at_r"), strict=True):
        assert theirs[f"{name}_level0"] == pytest.approx(ours[known], rel=1e-6)
