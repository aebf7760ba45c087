"""A loss in blocks of anchors: the terms, the value and the gradient of the batch in one piece."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.miners import DistanceWeightedMiner
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.errors import InvalidInput

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
        terms = loss_of(name, scope, chunk=size).per_anchor(rows, labels)
        value = terms.mean()
        value.backward()
        results.append((terms.total, terms.weight, value, rows.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].statistic is not None])
def test_a_statistic_of_part_of_the_batch_would_be_another_loss(name: str) -> None:
    """What the blocks and the ranks have to sum: the terms of some anchors change with the anchors of the statistic."""
    E, labels = batch_for(None, seed=2)
    loss = LOSSES[name]()
    rows = torch.tensor([0, 3, 4])
    pairs, anchor_labels = loss.table(E, labels, rows=rows)
    whole = loss.batch_statistic(loss.table(E, labels)[0])
    parts = [loss.batch_statistic(loss.table(E, labels, rows=part)[0]) for part in torch.arange(len(E)).split(4)]
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), whole)
    ours, theirs = (loss.terms(pairs, anchor_labels, statistic).total for statistic in (whole, None))
    assert (ours - theirs).abs().max() > 1e-6


class Recorded:
    """A miner that draws, and notes what it drew."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def __call__(self, pairs: Pairs) -> Pairs:
        found = DistanceWeightedMiner(4)(pairs)
        self.drawn.append(found.negative_mask)
        return found


@pytest.mark.parametrize("scope", [None, "class_pair"])
@pytest.mark.parametrize("name", ["multi_similarity", "histogram"])
def test_a_block_that_is_computed_again_gets_the_same_draws(name: str, scope: str | None) -> None:
    """Once more for the backward pass, and in a loss with a statistic of the batch twice as often."""
    E, labels = batch_for(scope, seed=2)
    miner = Recorded()
    loss_of(name, scope, chunk=4, miner=miner)(E.requires_grad_(), labels).backward()
    first, *again = [miner.drawn[k : k + 3] for k in range(0, len(miner.drawn), 3)]
    assert len(again) == (3 if name == "histogram" else 1)
    for blocks in again:
        seen = [any(torch.equal(one, other) for other in first) for one in blocks]
        assert all(seen)  # in the backward pass the blocks come in another order


def test_a_miner_with_a_generator_of_its_own_is_refused_in_blocks() -> None:
    with pytest.raises(InvalidInput, match="the miner's generator would draw anew"):
        loss_of("triplet", None, chunk=4, miner=DistanceWeightedMiner(4, torch.Generator()))
