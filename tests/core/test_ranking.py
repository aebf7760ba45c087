"""The losses of rankings against the measures that they smooth, and their memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from embedding_expansion.core import losses
from embedding_expansion.core.pairs import compare

from .batches import UNEQUAL, batch


def ranks_of_positives(E: Tensor, labels: Tensor, i: int) -> list[int]:
    """At which ranks the positives of row i stand among all other rows."""
    others = sorted((j for j in range(len(E)) if j != i), key=lambda j: -float(E[i] @ E[j]))
    return [rank for rank, j in enumerate(others, start=1) if labels[j] == labels[i]]


def test_smooth_ap_tends_to_the_average_precision_itself() -> None:
    E, labels = batch(UNEQUAL, seed=3)
    lost = []
    for i in range(len(E)):
        ranks = ranks_of_positives(E, labels, i)
        precisions = [found / rank for found, rank in enumerate(ranks, start=1)]
        lost.append(1 - sum(precisions) / len(ranks) if ranks else 0.0)
    assert 0.1 < sum(lost) / len(lost) < 0.9
    terms = losses.smooth_ap(compare(E, labels, metric="inner"), temperature=1e-6)
    torch.testing.assert_close(terms.total[0], torch.tensor(lost, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_recall_surrogate_tends_to_the_share_of_positives_among_the_first_k(k: int) -> None:
    """One that is ranked just at k is on the step of the logistic function, and counts half."""
    E, labels = batch(UNEQUAL, seed=3)
    lost = []
    for i in range(len(E)):
        ranks = ranks_of_positives(E, labels, i)
        found = [1 if rank < k else 0.5 if rank == k else 0 for rank in ranks]
        lost.append(1 - sum(found) / len(found) if found else 0.0)
    terms = losses.recall_at_k(compare(E, labels, metric="inner"), ks=(k,), temperature=1e-6, rank_temperature=1e-2)
    torch.testing.assert_close(terms.total[0], torch.tensor(lost, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_recall_of_the_authors_program_by_hand() -> None:
    """Three positives at ranks 2, 3 and 4 behind the query: at K = 1 the sum of their steps is divided by 1."""
    turned = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.5], dtype=torch.float64)
    E = torch.stack([turned.cos(), turned.sin()], dim=1)
    pairs = compare(E, [0, 0, 0, 0, 1], metric="inner", rows=torch.tensor([0]))
    for k, most in ((1, 1), (2, 2), (16, 3)):
        steps = [torch.tensor((k - rank) / k).sigmoid().item() for rank in (2, 3, 4)]
        value = losses.recall_at_k(pairs, ks=(k,), temperature=1e-6, form="program").mean().item()
        assert value == pytest.approx(1 - sum(steps) / most, abs=1e-6)
    crowd = compare(E[:1].expand(40, 2), [0] * 40, metric="inner")  # 39 copies share rank 20.5
    assert losses.recall_at_k(crowd, ks=(16,), rank_temperature=10.0, form="program").mean().item() == pytest.approx(0)
    assert losses.recall_at_k(pairs, ks=(1,), rank_temperature=1e-3, temperature=1e-6).mean() >= 2 / 3


@pytest.mark.parametrize("name", ["smooth_ap", "recall_at_k", "angular"])
def test_no_tensor_of_the_batch_cubed_is_formed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes: half of the batch are positives, so that a table of all triplets would be b^3 / 4.

    Some slots share a table of at most `LIMIT` entries, whatever the batch; here one slot alone is beyond it.
    """
    monkeypatch.setattr("embedding_expansion.core.losses.pairwise.LIMIT", 1)
    E, labels = batch((64, 64), d=8)
    E.requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        getattr(losses, name)(compare(E, labels, metric="inner")).mean().backward()
    largest = max(event.self_cpu_memory_usage for event in recorded.events()) / E.element_size()
    assert len(E) ** 2 <= largest <= 4 * len(E) ** 2
