"""Two gloo processes with an indices tuple, a reference or a gradient penalty give what one process gives.

The pairs are chosen by pytorch-metric-learning's own miner for several processes. A linear map stands for the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from embedding_expansion import CrossBatchMemory, DistributedLoss, EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import InvalidInput
from ranks import results_of_ranks

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning.miners import PairMarginMiner
    from pytorch_metric_learning.utils.distributed import DistributedMinerWrapper

WORLD, ROWS = 2, 6
NAMES = ("triplet", "lifted_structure", "histogram", "multi_similarity")
KINDS = ("pairs", "own pairs", "reference", "pairs of a reference", "penalty", "memory")
CASES = [
    (name, scope, kind)
    for name in NAMES
    for scope in (None, "class_pair", "anchor", "negative")
    for kind in KINDS
    # It reads the other end's negatives as well: not by anchor against a reference, nor of pairs of own anchors alone.
    if not (
        name == "lifted_structure"
        and ((scope in ("anchor", "negative") and "reference" in kind) or kind == "own pairs")
    )
]
MINER = PairMarginMiner(0.5, 1.3)


def loss_for(name: str, scope: str | None, kind: str) -> PairLoss:
    loss: PairLoss = LOSSES[name]()
    loss = loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope)
    return CrossBatchMemory(loss, embedding_size=4, size=8).double() if kind == "memory" else loss


def data() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Inputs and labels, of the batch and of a reference, and the model's weight."""
    generator = torch.Generator().manual_seed(5)
    inputs, others = (torch.randn(2 * ROWS, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([7, 7, 7, 7, 1, 1, 7, 7, 1, 1, 3, 3])
    return inputs, labels, others, labels.roll(4), weight


def value_of(
    loss: Any, kind: str, mine: Callable[[str], Any], inputs: Tensor, labels: Tensor, others: Any, weight: Tensor
) -> Tensor:
    """The value; of a penalty the squared norm of the gradient of its rows, and of a memory the second call's."""
    rows, reference, of_reference = inputs @ weight, others[0] @ weight, others[1]
    unit, unit_reference = (torch.nn.functional.normalize(x.detach(), dim=1) for x in (rows, reference))
    given: tuple[Any, ...] = ()
    if "pairs" in kind or kind == "memory":
        to_mine = (unit, labels, unit_reference, of_reference) if "reference" in kind else (unit, labels)
        given = (mine("own" if kind == "own pairs" else "whole")(*to_mine),)
    if "reference" in kind:
        given = (given[0] if given else None, reference, of_reference)
    if kind == "memory":  # of other rows: a row and its copy in the queue would be equally hard
        loss(reference, labels, *given)
    value: Tensor = loss(rows, labels, *given)
    if kind == "penalty":
        (gradient,) = torch.autograd.grad(value, rows, create_graph=True)
        value = gradient.square().sum()
    return value


def work(rank: int) -> dict[str, Any]:
    miners = {kind: DistributedMinerWrapper(MINER, efficient=kind == "own") for kind in ("own", "whole")}
    results: dict[str, Any] = {}
    for name, scope, kind in CASES:
        inputs, labels, others, of_others, weight = data()
        mine = slice(ROWS * rank, ROWS * rank + ROWS)
        weight.requires_grad_()
        loss = DistributedLoss(loss_for(name, scope, kind))
        given = inputs[mine], labels[mine], (others[mine], of_others[mine]), weight
        value = value_of(loss, kind, miners.__getitem__, *given)
        value.backward()
        gradient = weight.grad.clone()
        dist.all_reduce(gradient)
        results[f"{name} {scope} {kind}"] = (value.detach(), gradient / WORLD)
    loss = DistributedLoss(loss_for("triplet", None, ""))
    E, L = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 1]], torch.tensor([0, 1, 0, 1])
    for wrong, bad in (("behind", 8), ("before", -1)):
        row = torch.tensor([0])
        try:
            loss(E, L, (row, row + bad, row[:0], row[:0]))
        except InvalidInput as error:
            results[wrong] = str(error)
    return results


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results_of_ranks(WORLD, tmp_path_factory.mktemp("two_processes"), work)


@pytest.mark.parametrize(("name", "scope", "kind"), CASES)
def test_two_processes_give_what_one_gives(both: list[dict[str, Any]], name: str, scope: str | None, kind: str) -> None:
    inputs, labels, others, of_others, weight = data()
    loss = loss_for(name, scope, kind)
    value = value_of(loss, kind, lambda _: MINER, inputs, labels, (others, of_others), weight.requires_grad_())
    value.backward()
    # Each rank's value is WORLD times its share, and so is its gradient, of which the penalty takes the square.
    scale = WORLD if kind == "penalty" else 1
    values, gradients = zip(*(result[f"{name} {scope} {kind}"] for result in both), strict=True)
    assert sum(v.item() for v in values) / WORLD == pytest.approx(scale * value.item(), rel=1e-9)
    for gradient in gradients:
        torch.testing.assert_close(gradient, scale * weight.grad, rtol=1e-7, atol=1e-8)


def test_rows_that_no_rank_has_are_told(both: list[dict[str, Any]]) -> None:
    for result in both:
        assert "the positives of indices_tuple run from 8 to 8; the batch has rows 0 to 7" in result["behind"]
        assert "the positives of indices_tuple run from -1 to -1; the batch has rows 0 to 7" in result["before"]
