"""What is equal but for rounding: copies of an image, ties of two distances, hinges that are exactly 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion import EmbeddingExpansion, expand
from embedding_expansion.core import losses
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pairs import compare, rounding
from embedding_expansion.core.terms import distance
from embedding_expansion.errors import InvalidInput

from . import oracles

WIDTHS = pytest.mark.parametrize("width", [torch.float32, torch.float64], ids=str)


def rows_with_copies(dimensions: int, width: torch.dtype) -> tuple[Tensor, Tensor]:
    """Three classes of twelve rows; every other row is a copy of the one before."""
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(18, dimensions, generator=generator).repeat_interleave(2, dim=0)
    return E.to(width), torch.arange(36) // 12


def active_pairs(E: Tensor, labels: Tensor, margin: float, metric: str) -> tuple[list[float], list[float]]:
    """What pairs add that add something, of differences of rows and not of inner products."""
    pulls, pushes = [], []
    for i in range(len(E)):
        for j in range(len(E)):
            difference = E[i] - E[j]
            d = (difference.var() / E[i].var() if metric == "snr" else difference.norm()).item()
            if labels[i] == labels[j] and d > 0:
                pulls.append(d)
            if labels[i] != labels[j] and d < margin:
                pushes.append(margin - d)
    return pulls, pushes


@WIDTHS
@pytest.mark.parametrize("norm", [1.0, 0.5, 50.0])
@pytest.mark.parametrize("dimensions", [4, 500])
@pytest.mark.parametrize("name", ["contrastive", "contrastive, squared", "snr_contrastive"])
def test_copies_of_an_image_add_nothing_to_what_is_averaged(
    name: str, dimensions: int, norm: float, width: torch.dtype
) -> None:
    E, labels = rows_with_copies(dimensions, width)
    E = norm * torch.nn.functional.normalize(E, dim=1)
    name, squared = name.partition(",")[0], name.endswith("squared")
    margin, metric = (2.2, "snr") if name == "snr_contrastive" else (1.45 * norm, "euclidean")
    parameters = {"squared": squared} if name == "contrastive" else {}
    loss = LOSSES[name](margin=margin, average="active", normalize=False, **parameters)
    found = active_pairs(E.double(), labels, margin, metric)
    assert all(found)
    terms = loss.per_anchor(E, labels)
    assert terms.weight.sum(dim=1).tolist() == [len(values) for values in found]
    expected = [sum(d**2 if squared else d for d in values) / len(values) for values in found]
    ours = (terms.total.sum(dim=1) / terms.weight.sum(dim=1)).tolist()
    assert ours == pytest.approx(expected, rel=2e-3)


@WIDTHS
@pytest.mark.parametrize("norm", [0.5, 50.0])
@pytest.mark.parametrize("table", ["euclidean", "snr", "expanded", "normalised"])
def test_rows_that_differ_by_rounding_have_a_similarity_of_exactly_1(
    table: str, norm: float, width: torch.dtype
) -> None:
    E, labels = rows_with_copies(500, width)
    E = norm * torch.nn.functional.normalize(E, dim=1)
    E[1::2] = torch.nextafter(E[1::2], E[1::2].sign())
    E.requires_grad_()
    if table == "expanded":
        pairs = expand(E, labels, n=2, normalize_synthetic=False)
    elif table == "normalised":
        pairs = LOSSES["contrastive"]().table(E, labels)[0]
    else:
        pairs = compare(E, labels, metric=table)  # type: ignore[arg-type]
    copies = (pairs.positive - 1).abs() < 1e-3 * (1 if table in ("snr", "normalised") else norm**2)
    assert copies.sum() == len(E)  # another row of the class is at a right angle, or nearly
    assert pairs.positive[copies].unique().tolist() == [1]
    (gradient,) = torch.autograd.grad(pairs.positive[copies].sum(), E)
    assert gradient.abs().max() < 1e-3 * norm


@WIDTHS
@pytest.mark.parametrize("norm", [1.0, 0.5, 50.0])
@pytest.mark.parametrize("dimensions", [4, 500])
@pytest.mark.parametrize("n", [0, 2])
def test_nor_do_they_expanded(n: int, dimensions: int, norm: float, width: torch.dtype) -> None:
    E, labels = rows_with_copies(dimensions, width)
    E = norm * torch.nn.functional.normalize(E, dim=1)
    loss = EmbeddingExpansion(LOSSES["contrastive"](squared=False, average="active", normalize=False), n=n)
    terms = loss.per_anchor(E, labels)
    pulls, _ = active_pairs(E.double(), labels, 0.0, "euclidean")
    assert terms.weight[0].sum() == len(pulls)
    assert terms.total[0].sum().item() == pytest.approx(sum(pulls), rel=1e-5)


def edge(kind: str) -> tuple[Tensor, Tensor]:
    E = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if kind == "axes":
        E = torch.eye(9, dtype=torch.float64)
    elif kind == "two classes of the same images":
        E[3:6] = E[:3]
    elif kind == "one point":
        E[:] = E[:1].clone()
    elif kind == "zero rows":
        E[[0, 4]] = 0
    return torch.nn.functional.normalize(E, dim=1), torch.arange(9) // 3


@WIDTHS
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("kind", ["no ties", "axes", "two classes of the same images", "one point", "zero rows"])
def test_a_triplet_is_hard_or_semihard_and_both_forms_of_the_loss_agree_which(
    kind: str, squared: bool, width: torch.dtype
) -> None:
    """By loops over differences of rows in float64; of ties the hinge is the margin, so that each is counted."""
    E, labels = edge(kind)
    power, margin, near_tie = (2 if squared else 1), 0.4, 1e-5
    counts = {"hard": 0, "semihard": 0}
    for i in range(9):
        for j in range(9):
            for k in range(9):
                if i == j or labels[i] != labels[j] or labels[i] == labels[k]:
                    continue
                gap = ((E[i] - E[j]).norm() ** power - (E[i] - E[k]).norm() ** power).item()
                assert abs(gap + margin) > near_tie
                counts["hard"] += gap >= -near_tie
                counts["semihard"] += -margin < gap < -near_tie
    pairs = compare(E.to(width), labels)
    for mining, count in counts.items():
        for soft_margin in (False, True):
            options: Any = {"mining": mining, "soft_margin": soft_margin, "squared": squared, "margin": margin}
            terms = losses.triplet(pairs, average="active", **options)
            assert terms.weight.sum() == count, (mining, soft_margin)
    whole, hard, semihard = (
        losses.triplet(pairs, margin=margin, mining=mining, squared=squared).mean()
        for mining in ("all", "hard", "semihard")
    )
    torch.testing.assert_close(hard + semihard, whole)


@WIDTHS
def test_a_hinge_that_is_0_but_for_rounding_is_not_counted(width: torch.dtype) -> None:
    """A row of zeros is at distance 1, the margin, of every unit row."""
    E, labels = edge("zero rows")
    terms = losses.contrastive(compare(E.to(width), labels), margin=1.0, average="active")
    zeros = torch.tensor([0, 4])
    others = torch.tensor([i for i in range(9) if i not in (0, 4)])
    apart = torch.cdist(E, E)
    different = labels[:, None] != labels
    close = (different & (apart < 1 - 1e-9))[others][:, others].sum(dim=1)
    assert terms.weight[1, others].tolist() == close.tolist()
    assert terms.weight[1, zeros].tolist() == [1, 1]  # each other


def test_the_distance_of_points_that_nearly_coincide_passes_a_bounded_gradient_on() -> None:
    """A batch in float32 that has nearly collapsed can come apart, and copies stay where they are."""
    E = torch.zeros(3, 3)
    E[:, 0] = 1
    E[2, 1] = 4e-4
    E.requires_grad_()
    pairs = compare(E, [0, 1, 2])
    apart = distance(pairs.negative)
    assert apart[0, 1] == 0
    (gradient,) = torch.autograd.grad(apart[0, 1], E, retain_graph=True)
    assert gradient.tolist() == [[0, 0, 0]] * 3
    (gradient,) = torch.autograd.grad(apart[0, 2], E)
    assert gradient.isfinite().all()
    assert gradient[0, 1] < 0 < gradient[2, 1] <= 1


@pytest.mark.parametrize("name", ["contrastive", "margin", "hphn_triplet", "lifted_structure", "ranked_list"])
def test_a_negative_at_distance_0_has_the_papers_value_and_a_finite_gradient(name: str) -> None:
    E, labels = edge("two classes of the same images")
    rows = E.clone().requires_grad_()
    value = LOSSES[name](normalize=False)(rows, labels)
    expected = oracles.mean(oracles.ORACLES[name](oracles.plain_table(E, labels.tolist(), "euclidean")))
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    value.backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
    assert rows.grad.abs().max() < 10


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_a_temperature_of_a_ranked_list_is_not_below_0(side: str) -> None:
    E, labels = edge("no ties")
    with pytest.raises(InvalidInput, match=rf"{side}_temperature is -0.5; pass 0 or more"):
        LOSSES["ranked_list"](**{f"{side}_temperature": -0.5})(E, labels)


@WIDTHS
def test_the_angle_of_copies_is_0_and_of_opposite_rows_pi(width: torch.dtype) -> None:
    """Two copies against a row at a right angle, and two opposite rows against one."""
    margin = torch.deg2rad(torch.tensor(5.73, dtype=torch.float64))
    for second, cosine in ((1.0, margin.cos()), (-1.0, -margin.cos())):
        E = torch.randn(3, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        E[1], E[2] = second * E[0], E[2] - (E[2] @ E[0]) / (E[0] @ E[0]) * E[0]
        E = E.to(width).requires_grad_()
        value = LOSSES["tuplet_margin"](scale=8.0)(E, [0, 0, 1])
        torch.testing.assert_close(value.double(), torch.log1p((-8 * cosine).exp()), rtol=1e-5, atol=1e-6)
        value.backward()
        assert E.grad is not None
        assert E.grad.isfinite().all()


@WIDTHS
def test_the_slope_of_a_distance_is_at_most_that_at_the_smallest_one_that_rounding_leaves(width: torch.dtype) -> None:
    smallest = max(rounding(torch.zeros(1, dtype=width)) ** 0.5, 1e-6)
    similarity = torch.tensor([1.0, 1 - 2 * smallest**2], dtype=width, requires_grad=True)
    distances = distance(similarity)
    assert distances[0] == 0
    assert distances[1].item() == pytest.approx(2 * smallest, rel=0.1)
    (slope,) = torch.autograd.grad(distances.sum(), similarity)
    assert slope.tolist() == pytest.approx([-1 / smallest, -0.5 / smallest], rel=0.1)
