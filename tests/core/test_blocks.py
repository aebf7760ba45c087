"""A loss in blocks of anchors: the terms, the value and the gradient of the batch in one piece."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.modules import LOSSES

from . import oracles
from .batches import batch_for

every_case = pytest.mark.parametrize(("name", "scope"), oracles.CASES)


def loss_of(name: str, scope: str | None, **options: Any) -> torch.nn.Module:
    loss = LOSSES[name](**options)
    return loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@every_case
def test_blocks_give_the_value_and_the_gradient_of_the_whole(name: str, scope: str | None, chunk: int) -> None:
    E, labels = batch_for(scope, seed=2, unit=False)
    results: list[tuple[Tensor, ...]] = []
    for size in (None, chunk):
        rows = E.clone().requires_grad_()
        terms = loss_of(name, scope, reduction="none", chunk=size)(rows, labels)
        value = terms.mean()
        value.backward()
        results.append((terms.total, terms.weight, value, rows.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].statistic is not None])
def test_a_statistic_of_part_of_the_batch_would_be_another_loss(name: str) -> None:
    """What the blocks and the ranks have to sum: the terms of some anchors change with the anchors of the statistic."""
    E, labels = batch_for(None, seed=2)
    loss = LOSSES[name](reduction="none")
    rows = torch.tensor([0, 3, 4])
    pairs, anchor_labels = loss.table(E, labels, rows=rows)
    whole = loss.batch_statistic(loss.table(E, labels)[0])
    parts = [loss.batch_statistic(loss.table(E, labels, rows=part)[0]) for part in torch.arange(len(E)).split(4)]
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), whole)
    ours, theirs = (loss.terms(pairs, anchor_labels, statistic).total for statistic in (whole, None))
    assert (ours - theirs).abs().max() > 1e-6
