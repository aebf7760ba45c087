"""Limits that the documentation promises in the core: exactly at one, just below and just above."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from embedding_expansion import ArcFaceLoss, NormalizedSoftmaxLoss, SubCenterArcFaceLoss, expand, synthesize
from embedding_expansion.core import losses
from embedding_expansion.core.miners import DistanceWeightedMiner, MultiSimilarityMiner
from embedding_expansion.core.pairs import compare
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput, InvalidType

from .test_search import torch_search

# The squared norm under which a synthetic point has no direction, as the docstrings have it.
LEAST = {torch.float32: 1e-4, torch.float64: 1e-10}
both_types = pytest.mark.parametrize("dtype", LEAST)


def just_about(least: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The largest number whose square is under a bound and the smallest whose square is not, in that width."""
    bound = torch.tensor(least, dtype=dtype)
    x = bound.sqrt()
    while x * x >= bound:
        x = torch.nextafter(x, torch.zeros_like(x))
    while x * x < bound:
        below, x = x, torch.nextafter(x, torch.ones_like(x))
    return below, x


@both_types
def test_a_middle_whose_squared_norm_is_just_large_enough_is_a_point(dtype: torch.dtype) -> None:
    for x, kept in zip(just_about(LEAST[dtype], dtype), (0, 1), strict=True):
        E = torch.stack([x, torch.ones_like(x)]).repeat(2, 1)
        E[1, 1] = -1  # the middle is (x, 0)
        points, labels = synthesize(E, [5, 5], n=1)
        assert points.tolist() == [[1, 0]] * kept
        assert labels.tolist() == [5] * kept
        assert len(synthesize(E, [5, 5], n=1, normalize_synthetic=False)[0]) == 1  # as it is, it needs no direction


@both_types
@pytest.mark.parametrize("n", [1, 3, math.inf])
@pytest.mark.parametrize("search", [expand, torch_search], ids=["native", "torch"])
def test_the_searches_drop_the_middle_under_that_norm_only(search: object, n: float, dtype: torch.dtype) -> None:
    for share, kept in ((0.99, False), (1.01, True)):  # as near as a sum of products of 1 tells
        x = (share * LEAST[dtype]) ** 0.5
        E = torch.tensor([[x, 1.0], [x, -1.0], [1.0, 0.0], [1.0, 0.0]], dtype=dtype)
        E /= E.norm(dim=1, keepdim=True)
        hardest = float(search(E, [0, 0, 1, 1], n, metric="inner").negative[0, 1])  # type: ignore[operator]
        # Beside the middle an arc goes on to points of just the norm, whose cosine is x / the least norm.
        beside = 0.3 if n == 3 else share**0.5 if math.isinf(n) else x
        if kept:
            assert hardest == pytest.approx(1, abs=1e-6)
        elif math.isinf(n):
            assert hardest == pytest.approx(beside, abs=2e-3)
        else:
            assert hardest < beside


def test_arcface_at_an_angle_of_0_has_the_cosine_of_the_margin_and_a_gradient() -> None:
    """The slope of the sine's square root is infinite there."""
    margin, scale = 0.5, 2.0
    for off in (0.0, 1e-16, 1e-13, 1e-12, 1e-11, 1e-9):  # of the cosine from 1
        E = torch.tensor([[1 - off, 0.0]], dtype=torch.float64, requires_grad=True)
        pairs = compare(E, [0], metric="inner", reference=torch.eye(2, dtype=torch.float64), reference_labels=[0, 1])
        (value,) = losses.arcface(pairs, margin, scale).total[0]
        angle = math.acos(1 - off)
        # A sine under 1e-6 counts as 1e-6: the value is that much off at most, and the slope 1e6 at most.
        expected = math.log1p(math.exp(-scale * math.cos(angle + margin)))
        assert float(value.detach()) == pytest.approx(expected, abs=1e-6)
        (gradient,) = torch.autograd.grad(value, E)
        assert gradient.abs().max() <= scale * math.sin(margin) * 1e6
        if off >= 1e-11:  # beyond the bound the slope is that of the formula
            slope = -scale * (1 - 1 / (1 + math.exp(-scale * math.cos(angle + margin)))) * math.sin(angle + margin)
            assert float(gradient[0, 0]) == pytest.approx(slope / math.sin(angle), rel=1e-2)


def test_arcface_bends_where_the_angle_and_the_margin_exceed_pi() -> None:
    margin, scale = 0.5, 1.0
    bound = -math.cos(margin)  # the cosine of pi - margin
    for cosine, logit in (
        (bound, -1.0),
        (math.nextafter(bound, 1), -1.0),
        (math.nextafter(bound, -1), bound - margin * math.sin(margin)),
        (-1.0, -1 - margin * math.sin(margin)),
    ):
        E = torch.tensor([[cosine, 0.0]], dtype=torch.float64)
        pairs = compare(E, [0], metric="inner", reference=torch.eye(2, dtype=torch.float64), reference_labels=[0, 1])
        value = float(losses.arcface(pairs, margin, scale).total[0, 0])
        assert value == pytest.approx(math.log1p(math.exp(-logit)), abs=1e-7)


def test_counts_are_taken_from_their_smallest_on() -> None:
    NormalizedSoftmaxLoss(2, 1)
    SubCenterArcFaceLoss(2, 1, 1)
    DistanceWeightedMiner(3)
    for wrong in (
        lambda: NormalizedSoftmaxLoss(1, 1),
        lambda: NormalizedSoftmaxLoss(2, 0),
        lambda: SubCenterArcFaceLoss(2, 1, 0),
        lambda: DistanceWeightedMiner(2),
    ):
        with pytest.raises(InvalidInput, match=r"or more|at least"):
            wrong()


def test_as_many_points_on_a_segment_as_are_promised_and_no_more() -> None:
    E, labels = torch.eye(4), [0, 0, 1, 1]
    for n in (0, 100, math.inf):
        assert expand(E, labels, n).negative.shape == (4, 2)
    for wrong in (-1, 101):
        with pytest.raises(InvalidInput, match=f"n is {wrong}"):
            expand(E, labels, wrong)
    expand(E, labels, 1, max_segments=1)
    with pytest.raises(InvalidInput, match="max_segments is 0"):
        expand(E, labels, 1, max_segments=0)
    for wrong in (1.5, "2"):
        with pytest.raises((InvalidInput, InvalidType), match="n is"):
            expand(E, labels, wrong)  # type: ignore[arg-type]


def test_parameters_above_0_may_be_as_small_as_they_like() -> None:
    ArcFaceLoss(2, 2, scale=5e-324)
    for wrong in (0.0, -5e-324):
        with pytest.raises(InvalidInput, match="above 0"):
            ArcFaceLoss(2, 2, scale=wrong)


def test_rows_off_the_unit_sphere_are_refused_from_a_thousandth_on() -> None:
    E = torch.eye(4, dtype=torch.float64)
    for norm, fine in ((1.00099, True), (0.99901, True), (1.00101, False), (0.99899, False)):
        E[0, 0] = norm
        if fine:
            expand(E, [0, 0, 1, 1], math.inf)
        else:
            with pytest.raises(InvalidInput, match="row 0 has norm"):
                expand(E, [0, 0, 1, 1], math.inf)


@pytest.mark.parametrize("epsilon", [0.0, 0.25, -0.25, 4.0, -4.0])
def test_a_pair_that_is_easier_by_just_epsilon_is_left_out(epsilon: float) -> None:
    """Numbers of few bits, so that sums are exact; beyond a bound by one bit, a pair is kept."""
    E, labels = torch.eye(3, dtype=torch.float64), [0, 0, 1]
    pairs = compare(E, labels, metric="inner")
    negative, positive = 0.5, 0.5 + epsilon
    below, above = math.nextafter(positive, -math.inf), math.nextafter(positive, math.inf)
    for value, kept in ((below, True), (positive, False), (above, False)):
        table = replace(
            pairs, positive=torch.full_like(pairs.positive, value), negative=torch.full_like(pairs.negative, negative)
        )
        narrowed = MultiSimilarityMiner(epsilon).narrow(table)
        assert narrowed.positive_mask[:2].any(dim=1).tolist() == [kept, kept]
        # The other comparison: the negative exceeds the hardest positive minus epsilon.
        assert narrowed.negative_mask[:2].any(dim=1).tolist() == [negative > value - epsilon] * 2


def test_an_anchor_is_active_if_it_counts_and_adds_something() -> None:
    terms = Terms(torch.tensor([[2.0, 0.0, 0.5, 0.0]]), torch.tensor([[3.0, 1.0, 1.0, 0.0]]))
    assert terms.active_share() == pytest.approx(2 / 3)
    assert Terms(torch.zeros(1, 2), torch.zeros(1, 2)).active_share() == 0
