"""The synthetic points and the winners among them, and what the paper says is true of the maxima."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest, synthesize
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pairs import compare
from embedding_expansion.core.search import table

from . import explicit, oracles
from .batches import UNEQUAL, batch, batch_for, seeds

SCOPES = ["class_pair", "anchor", "negative"]


@pytest.mark.parametrize("normalize_synthetic", [True, False])
@pytest.mark.parametrize("unit", [True, False])
def test_synthesize_divides_every_same_class_segment_in_class_order(unit: bool, normalize_synthetic: bool) -> None:
    E, labels = batch(UNEQUAL, unit=unit)
    E.requires_grad_()
    points, names = synthesize(E, labels, 3, normalize_synthetic=normalize_synthetic)
    expected, expected_names = [], []
    for label in sorted(set(labels.tolist())):
        for i, j in explicit.segments_of_class(labels.tolist(), label):
            for point in explicit.between(E, i, j, 3, normalize_synthetic):
                expected.append(point.vector)
                expected_names.append(label)
    assert names.tolist() == expected_names
    torch.testing.assert_close(points, torch.stack(expected), rtol=0, atol=1e-12)
    weights = torch.randn_like(points)
    (gradient,) = torch.autograd.grad((points * weights).sum(), E)
    torch.testing.assert_close(gradient, oracles.gradient((torch.stack(expected) * weights).sum(), E))


def test_synthesize_makes_nothing_of_single_images_or_zero_points() -> None:
    E, labels = batch((1, 1, 1))
    for given_n, given_labels in ((3, labels), (0, torch.zeros(3, dtype=torch.int64))):
        points, names = synthesize(E, given_labels, given_n)
        assert points.shape == (0, E.shape[1])
        assert names.shape == (0,)


def test_normalised_synthetic_points_lie_on_the_sphere_and_others_inside() -> None:
    E, labels = batch(UNEQUAL)
    torch.testing.assert_close(synthesize(E, labels, 4)[0].norm(dim=1), torch.ones(40, dtype=torch.float64))
    assert (synthesize(E, labels, 4, normalize_synthetic=False)[0].norm(dim=1) < 1).all()


def rebuilt(E: Tensor, ends: Tensor, weights: Tensor, synthetic: bool, normalize: bool) -> Tensor:
    vector = weights[0] * E[ends[0]] + weights[1] * E[ends[1]]
    return vector / vector.norm() if synthetic and normalize else vector


@pytest.mark.parametrize("metric", ["euclidean", "inner"])
@pytest.mark.parametrize("normalize_synthetic", [True, False])
@pytest.mark.parametrize("n", [0, 1, 2, 8])
@pytest.mark.parametrize("scope", SCOPES)
def test_winners_are_the_pairs_that_the_table_was_read_off(
    scope: str, n: int, normalize_synthetic: bool, metric: str
) -> None:
    E, labels = batch_for(scope, seed=10 + n, unit=False)
    options: dict[str, Any] = {"scope": scope, "normalize_synthetic": normalize_synthetic, "metric": metric}
    winners = hardest(E, labels, n, **options)
    table = oracles.expanded_table(E, labels.tolist(), n, scope, normalize_synthetic, metric)
    classes = sorted(set(labels.tolist()))
    first = len(classes) if scope == "class_pair" else len(E)
    assert winners.ends.shape == winners.weights.shape == (first, len(classes), 2, 2)
    assert winners.is_synthetic.shape == (first, len(classes), 2)
    for i, label in enumerate(labels.tolist()):
        row = classes.index(label) if scope == "class_pair" else i
        others = [k for k, other in enumerate(classes) if other != label]
        for k, pair in zip(others, table.winners[i], strict=True):
            vectors = []
            for which, point in enumerate(pair):
                ends, weights = winners.ends[row, k, which], winners.weights[row, k, which]
                synthetic = bool(winners.is_synthetic[row, k, which])
                assert synthetic == point.synthetic
                assert set(ends.tolist()) == set(point.ends)
                if not synthetic:
                    assert weights.tolist() == [1, 0]
                torch.testing.assert_close(weights.sum().item(), 1.0)
                vectors.append(rebuilt(E, ends, weights, synthetic, normalize_synthetic))
                torch.testing.assert_close(vectors[-1], point.vector, rtol=0, atol=1e-6)
            assert labels[winners.ends[row, k, 0]].tolist() == [label, label]
            assert labels[winners.ends[row, k, 1]].tolist() == [classes[k]] * 2


def test_hardest_carries_no_gradient() -> None:
    E, labels = batch(UNEQUAL)
    winners = hardest(E.requires_grad_(), labels, 2, scope="class_pair", normalize_synthetic=True, metric="euclidean")
    assert not winners.weights.requires_grad


def test_only_the_winners_ends_have_gradient() -> None:
    E, labels = batch((2, 2, 2))
    E.requires_grad_()
    pairs = expand(E, labels, 2)
    row = int((labels == labels.min()).nonzero()[0])
    (gradient,) = torch.autograd.grad(pairs.negative[row, 1], E)
    touched = set(gradient.norm(dim=1).nonzero()[:, 0].tolist())
    table = oracles.expanded_table(E, labels.tolist(), 2)
    assert touched == {end for point in table.winners[row][0] for end in point.ends}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("normalize_synthetic", [True, False])
@given(seed=seeds, d=st.integers(2, 6), n=st.integers(0, 4), unit=st.booleans())
def test_hardness_grows_from_n_to_2n_plus_1_and_from_none_to_any(
    scope: str, normalize_synthetic: bool, seed: int, d: int, n: int, unit: bool
) -> None:
    E, labels = batch_for(scope, seed, d=d, unit=unit)

    def negatives(points: int) -> Tensor:
        pairs = expand(E, labels, points, scope=scope, normalize_synthetic=normalize_synthetic)
        return pairs.negative[pairs.negative_mask]

    assert (negatives(n) >= negatives(0) - 1e-12).all()
    assert (negatives(2 * n + 1) >= negatives(n) - 1e-12).all()


def test_hardness_need_not_grow_from_one_point_to_two() -> None:
    """The middle of the segment is nearest, and two points leave it out."""
    E = torch.tensor([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, 2]], dtype=torch.float64)
    E, labels = E / E.norm(dim=1, keepdim=True), torch.tensor([0, 0, 1, 1])
    one, two = (expand(E, labels, n).negative[0, 1] for n in (1, 2))
    assert one > two


@given(seed=seeds, n=st.integers(1, 8), unit=st.booleans())
def test_inner_products_gain_nothing_from_points_inside_the_sphere(seed: int, n: int, unit: bool) -> None:
    """The inner product of two segments is bilinear, so its maximum lies at original end points."""
    E, labels = batch_for("class_pair", seed, unit=unit)
    with_points, without = (expand(E, labels, k, normalize_synthetic=False, metric="inner") for k in (n, 0))
    mask = without.negative_mask
    torch.testing.assert_close(with_points.negative[mask], without.negative[mask], rtol=0, atol=1e-12)


@given(seed=seeds, n=st.integers(1, 8))
def test_in_anchor_scope_they_gain_no_more_than_the_mate_has(seed: int, n: int) -> None:
    """The anchor's own half-open segment comes near to its mate: between n = 0 and the two rows' maximum."""
    E, labels = batch_for("anchor", seed)
    given_n, none = (
        expand(E, labels, k, scope="anchor", normalize_synthetic=False, metric="inner").negative for k in (n, 0)
    )
    mask = labels[:, None] != labels.unique()[None]
    both = torch.maximum(none, none[[explicit.mate(i) for i in range(len(E))]])
    assert (given_n[mask] >= none[mask] - 1e-12).all()
    assert (given_n[mask] <= both[mask] + 1e-12).all()


def test_distances_do_gain_from_points_inside_the_sphere() -> None:
    E, labels = batch((3, 3), d=3)
    nearer, plain = (expand(E, labels, n, normalize_synthetic=False).negative[0] for n in (3, 0))
    mask = expand(E, labels, 0).negative_mask[0]
    assert (nearer[mask] > plain[mask]).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_middle_of_opposite_points_is_dropped(n: int) -> None:
    E = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 0.6, 0.8], [0.1, 1, 0]], dtype=torch.float64)
    E = (E / E.norm(dim=1, keepdim=True)).requires_grad_()
    labels = [5, 5, 2, 2]
    for scope in SCOPES:
        pairs = expand(E, labels, n, scope=scope)
        table = oracles.expanded_table(E, labels, n, scope)
        ours = pairs.negative[:4][pairs.negative_mask[:4]]
        theirs = torch.stack([s for row in table.negatives for s in row])
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
        (gradient,) = torch.autograd.grad(ours.sum(), E)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_synthetic_point_without_a_direction_to_speak_of_is_dropped(scope: str) -> None:
    """Of nearly opposite points the middle points anywhere; float32 drops it earlier than float64 does."""
    for gap, dtypes in ((1e-6, (torch.float64, torch.float32)), (1e-2, (torch.float32,)), (5e-2, ())):
        E = torch.tensor([[1, 0, 0], [-1, gap, 0], [0, 1, 0], [0, 1, 0.1]], dtype=torch.float64)
        E = E / E.norm(dim=1, keepdim=True)
        for dtype in (torch.float64, torch.float32):
            at = (2, 0) if scope == "negative" else (0, 1)  # the first class is on the side that is expanded
            hardness = float(expand(E.to(dtype), [0, 0, 1, 1], 1, scope=scope).negative[at])
            points, names = synthesize(E.to(dtype), [0, 0, 1, 1], 1)
            if dtype in dtypes:
                assert hardness < 0.1
                assert names.tolist() == [1]
            else:
                assert hardness > 0.9
                assert names.tolist() == [0, 1]
            assert points.isfinite().all()


def test_the_search_finds_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for scope in SCOPES:
        E, labels = batch((4, 4, 2, 2, 2), paired=True)
        whole = expand(E, labels, 3, scope=scope)
        with monkeypatch.context() as patch:
            patch.setattr(table, "LIMIT", 1)
            pieces = expand(E, labels, 3, scope=scope)
        torch.testing.assert_close(pieces.negative, whole.negative, rtol=0, atol=1e-12)


def test_synthesize_agrees_with_expand_on_which_points_there_are() -> None:
    """Among originals and synthesize()'s points, the nearest of two classes is what expand() found."""
    E, labels = batch((4, 3, 2), d=3, seed=5)
    points, names = synthesize(E, labels, 2)
    everything, whose = torch.cat([E, points]), torch.cat([labels, names])
    pairs = expand(E, labels, 2)
    for i in range(len(E)):
        for k, label in enumerate(sorted(set(labels.tolist()))):
            if label != labels[i]:
                nearest = torch.cdist(everything[whose == labels[i]], everything[whose == label]).min()
                torch.testing.assert_close(pairs.negative[i, k], 1 - nearest**2 / 2)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_row_given_twice_counts_as_an_anchor_twice(scope: str) -> None:
    E, labels = batch_for(scope)
    loss = EmbeddingExpansion(LOSSES["triplet"](), scope=scope)
    once, twice = (loss.per_anchor(E, labels, rows=torch.tensor(rows)) for rows in ([0, 3], [0, 3, 0]))
    assert torch.equal(twice.total, once.total[..., [0, 1, 0]])
    assert torch.equal(twice.weight, once.weight[..., [0, 1, 0]])


@pytest.mark.parametrize("normalize_synthetic", [True, False])
@given(seed=seeds, d=st.integers(2, 6), n=st.sampled_from([1, 2, 8, math.inf]))
def test_the_anchor_alone_is_less_hard_than_its_class_and_harder_than_without_points(
    normalize_synthetic: bool, seed: int, d: int, n: float
) -> None:
    E, labels = batch(UNEQUAL, d, seed)

    def negatives(scope: Any, n: float) -> Tensor:
        pairs = expand(E, labels, n, scope=scope, normalize_synthetic=normalize_synthetic)
        return pairs.negative[pairs.negative_mask]

    mined, alone, of_class = negatives("negative", 0), negatives("negative", n), negatives("class_pair", n)
    rounding = 1e-9
    assert (mined <= alone + rounding).all()
    assert (alone <= of_class + rounding).all()
    plain = compare(E, labels)
    for i, (row, mask) in enumerate(zip(plain.negative, plain.negative_mask, strict=True)):
        others = labels[mask].unique()
        hardest_of_each = torch.stack([row[labels == other].max() for other in others])
        ours = expand(E, labels, 0, scope="negative", normalize_synthetic=normalize_synthetic)
        torch.testing.assert_close(ours.negative[i][ours.negative_mask[i]], hardest_of_each)
