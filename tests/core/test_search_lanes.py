"""Many classes of one size are searched side by side, in lanes of a vector, and have the same pairs as in torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expansion import hardest

from .test_search import assert_same, both_are_there, every_n, every_scope, torch_search

__all__ = ["both_are_there"]  # a fixture of every test here

SIZES = {2: 21, 4: 18, 3: 5, 6: 17, 9: 2}  # more than a vector holds, a few more, a few, and those that are looked at


def many(scope: str, d: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes of several sizes in float64, shuffled, in anchor scope by pairs."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [size for size, count in SIZES.items() for _ in range(count) if scope != "anchor" or size % 2 == 0]
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    centres = torch.randn(len(sizes), d, generator=generator, dtype=torch.float64)
    rows = centres[labels] + torch.randn(len(labels), d, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(labels) // 2, generator=generator)
    order = torch.stack([2 * order, 2 * order + 1], dim=1).flatten()
    if scope != "anchor":
        order = torch.randperm(len(labels), generator=generator)
    return rows[order], labels[order]


@every_scope
@every_n
@pytest.mark.parametrize("metric", ["euclidean", "inner"])
@pytest.mark.parametrize("normalize", [True, False])
def test_values_and_gradients_are_those_of_torch(normalize: bool, metric: str, n: float, scope: str) -> None:
    E, labels = many(scope)
    E = E / E.norm(dim=1, keepdim=True) if normalize else E / 3
    assert_same(E, labels, n, scope=scope, normalize_synthetic=normalize, metric=metric)


@every_n
def test_winners_are_those_of_torch(n: float) -> None:
    E, labels = many("class_pair")
    E = E / E.norm(dim=1, keepdim=True)
    ours, theirs = hardest(E, labels, n), torch_winners(E, labels, n)
    other = ~torch.eye(int(labels.max()) + 1, dtype=torch.bool)
    assert torch.equal(ours.ends[other], theirs.ends[other])
    torch.testing.assert_close(ours.weights[other], theirs.weights[other])
    if n:
        assert ours.is_synthetic[other].any()
        assert not ours.is_synthetic[other].all()


def torch_winners(E: Tensor, labels: Tensor, n: float) -> Any:
    from embedding_expansion.core.search import native

    with native.disabled():
        return hardest(E, labels, n)


@pytest.mark.parametrize("n", [0, 1, 2, 8])
def test_of_equal_pairs_the_first_wins(n: int) -> None:
    """Rows along axes are alike to the last bit, so that most pairs of two classes are ties."""
    E = torch.eye(6, dtype=torch.float64)[torch.arange(96) * 5 % 6]
    labels = torch.arange(24).repeat_interleave(4)
    ours, theirs = hardest(E, labels, n), torch_winners(E, labels, n)
    other = ~torch.eye(24, dtype=torch.bool)
    assert torch.equal(ours.ends[other], theirs.ends[other])


@every_scope
@every_n
def test_a_memory_is_barred_in_lanes_as_well(n: float, scope: str) -> None:
    E, labels = many(scope, seed=1)
    E = E / E.norm(dim=1, keepdim=True)
    past = torch.zeros(len(labels), dtype=torch.bool)
    past[1::3] = True
    assert_same(E, labels, n, scope=scope, from_memory=past)


@pytest.mark.parametrize("options", [{"max_segments": 2}, {"rows": torch.arange(0, 90, 4)}], ids=["segments", "rows"])
def test_fewer_segments_or_anchors_in_lanes(options: dict[str, Any]) -> None:
    E, labels = many("class_pair", seed=2)
    assert_same(E / E.norm(dim=1, keepdim=True), labels, 2, **options)


@every_n
def test_single_precision_in_lanes(n: float) -> None:
    E, labels = many("class_pair", seed=3)
    E = E / E.norm(dim=1, keepdim=True)
    ours = torch_search(E, labels, n).negative
    single = hardest(E.float(), labels, n)
    rows, weights = E[single.ends], single.weights.double()[..., None]
    points = (rows * weights).sum(dim=-2)
    points = points / points.norm(dim=-1, keepdim=True)
    values = (points[:, :, 0] * points[:, :, 1]).sum(dim=-1)
    other = labels[:, None] != torch.arange(len(values))
    torch.testing.assert_close(values[labels][other], ours[other], rtol=1e-5, atol=1e-5)
