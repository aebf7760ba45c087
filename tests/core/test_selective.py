"""The selective pull: where a negative is more similar than a positive, the positive passes no gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from embedding_expansion import CrossBatchMemory, EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pairs import Pairs

from . import oracles
from .batches import batch_for


@pytest.mark.parametrize(("name", "scope"), [case for case in oracles.CASES if case[1] is not None])
def test_the_gradient_is_that_of_a_loop_over_positives(name: str, scope: Any) -> None:
    E, labels = batch_for(scope, seed=6)
    E.requires_grad_()
    loss = EmbeddingExpansion(LOSSES[name](normalize=False), n=2, scope=scope, selective=True)
    value = loss(E, labels)
    table = oracles.expanded_table(E, labels.tolist(), 2, scope, metric=oracles.METRICS[name])
    kept = [
        [s.detach() if negatives and max(negatives) > s else s for s in positives]
        for positives, negatives in zip(table.positives, table.negatives, strict=True)
    ]
    expected = oracles.mean(oracles.ORACLES[name](replace(table, positives=kept)))
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)
    (gradient,) = torch.autograd.grad(value, E)
    torch.testing.assert_close(gradient, oracles.gradient(expected, E), rtol=1e-7, atol=1e-8)


def test_masked_negatives_do_not_count_and_a_memory_passes_the_rule_on() -> None:
    """Row 0 is nearer to row 2, of another class, than to its positive, row 1; row 4 is further away than row 1."""
    angles = torch.tensor([0.0, 1.0, 0.5, 2.6, 1.4, 3.0], dtype=torch.float64)
    E, labels = torch.stack([angles.cos(), angles.sin()], dim=1), [0, 0, 1, 1, 2, 2]

    def without_the_second_class(pairs: Pairs) -> Pairs:
        mask = pairs.negative_mask.clone()
        mask[:, 1] = False
        return replace(pairs, negative_mask=mask)

    def pull(selective: bool, **options: Any) -> float:
        """How much gradient the similarity of rows 0 and 1 passes to the embeddings."""
        loss = EmbeddingExpansion(LOSSES["n_pair"](), n=0, scope="negative", selective=selective, **options)
        pairs, batch = loss.table(E.clone().requires_grad_(), labels)
        (gradient,) = torch.autograd.grad(pairs.positive[0, 0], batch.embeddings, retain_graph=True, allow_unused=True)
        return float(gradient.norm()) if gradient is not None else 0.0

    assert pull(False) > 0
    assert pull(True) == 0
    assert pull(True, miner=without_the_second_class) == pull(False)
    rows = E.clone().requires_grad_()
    plain = EmbeddingExpansion(LOSSES["triplet"](), selective=True)
    memory = CrossBatchMemory(plain, embedding_size=2, size=8).double()
    assert memory.selective
    (of_memory,) = torch.autograd.grad(memory(rows, labels), rows)
    (of_plain,) = torch.autograd.grad(plain(rows, labels), rows)
    torch.testing.assert_close(of_memory, of_plain)
