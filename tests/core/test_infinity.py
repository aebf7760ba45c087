"""Infinitely many points: the hardest pair of whole arcs, or of whole segments, held against a search that zooms in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embedding_expansion.core import losses
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand, hardest
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.search import infinity, native
from embedding_expansion.core.search.problem import SMALLEST_SQUARE
from embedding_expansion.errors import InvalidInput

from . import oracles
from .batches import batch_for, seeds
from .explicit import mate, rows_of_class
from .segments import on_segment, oracle, whole_segments, zoomed

SCOPES = ["class_pair", "anchor", "negative"]
RULES = [(True, "euclidean"), (True, "inner"), (False, "euclidean"), (False, "inner")]
every_rule = pytest.mark.parametrize(("normalize", "metric"), RULES)
every_scope = pytest.mark.parametrize("scope", SCOPES)


@every_scope
@every_rule
@pytest.mark.parametrize(("d", "seed"), [(2, 0), (3, 1), (64, 2)])
def test_the_value_is_that_of_the_nearest_points_of_whole_segments(
    d: int, seed: int, scope: str, normalize: bool, metric: str
) -> None:
    E, labels = batch_for(scope, seed, d=d, unit=normalize)
    pairs = expand(E, labels, math.inf, scope=scope, normalize_synthetic=normalize, metric=metric)
    expected = oracle(E, labels.tolist(), scope, normalize, metric)
    a = len(E)
    torch.testing.assert_close(pairs.negative[:a][pairs.negative_mask[:a]], expected[pairs.negative_mask[:a]])


@every_scope
@every_rule
@given(seed=seeds, d=st.sampled_from([2, 3, 5, 32]), n=st.integers(0, 40))
def test_no_finite_number_of_points_is_harder(
    scope: str, normalize: bool, metric: str, seed: int, d: int, n: int
) -> None:
    E, labels = batch_for(scope, seed, d=d, unit=normalize)
    options: dict[str, Any] = {"scope": scope, "normalize_synthetic": normalize, "metric": metric}
    for dtype, slack in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        some, all_of_them = (expand(E.to(dtype), labels, k, **options).negative for k in (n, math.inf))
        assert (all_of_them >= some - slack * (1 + some.abs())).all()


def test_more_and_more_points_come_nearer_and_nearer_to_it() -> None:
    E, labels = batch_for("class_pair", 5, d=3)
    limit = expand(E, labels, math.inf).negative
    gaps = {n: float((limit - expand(E, labels, n).negative).max()) for n in (1, 7, 31, 100)}
    assert list(gaps.values()) == sorted(gaps.values(), reverse=True)
    assert gaps[1] > 1e-3
    assert all(gap < 2 / (n + 1) ** 2 for n, gap in gaps.items())  # half a step aside the cosine falls by its square


@every_scope
@every_rule
def test_the_winners_are_points_of_their_segments_and_have_the_value(scope: str, normalize: bool, metric: str) -> None:
    E, labels = batch_for(scope, 3, unit=normalize)
    options: dict[str, Any] = {"scope": scope, "normalize_synthetic": normalize, "metric": metric}
    winners = hardest(E, labels, math.inf, **options)
    pairs = expand(E, labels, math.inf, **options)
    classes = torch.unique(labels)
    inside = 0
    for i, label in enumerate(labels):
        row = int((classes == label).nonzero()) if scope == "class_pair" else i
        for c in pairs.negative_mask[i].nonzero()[:, 0].tolist():
            points = []
            for which in (0, 1):
                ends, weights = winners.ends[row, c, which], winners.weights[row, c, which]
                assert (labels[ends] == (label, classes[c])[which]).all()
                assert ((weights >= 0) & (weights <= 1)).all()
                assert bool(winners.is_synthetic[row, c, which]) == bool(ends[0] != ends[1])
                inside += int(ends[0] != ends[1])
                points.append(on_segment(E, (int(ends[0]), int(ends[1])), weights[:1], normalize)[0])
            value = oracles.similarity(*points, metric)
            torch.testing.assert_close(value, pairs.negative[i, c])
    assert inside > 0 or (not normalize and metric == "inner")


@every_scope
@every_rule
def test_gradcheck(scope: str, normalize: bool, metric: str) -> None:
    E, labels = batch_for(scope, 1, d=3, unit=normalize)

    def negatives(rows: Tensor) -> Tensor:
        rows = rows / rows.norm(dim=1, keepdim=True) if normalize else rows
        pairs = expand(rows, labels, math.inf, scope=scope, normalize_synthetic=normalize, metric=metric)
        return pairs.negative[pairs.negative_mask]

    assert torch.autograd.gradcheck(negatives, E.requires_grad_())


@pytest.mark.parametrize("name", [name for name in oracles.EXPANDABLE if name != "circle"])  # its weights are constants
def test_every_loss_has_its_gradient(name: str) -> None:
    E, labels = batch_for("class_pair", 2, d=3)
    loss = EmbeddingExpansion(LOSSES[name](), n=math.inf)
    assert torch.autograd.gradcheck(lambda rows: loss(rows, labels), E.requires_grad_(), atol=1e-4, fast_mode=True)


@every_scope
@pytest.mark.parametrize("name", [name for name in oracles.EXPANDABLE if LOSSES[name].monotone])
@given(seed=seeds, n=st.integers(0, 20))
def test_every_monotone_loss_is_hardest_in_the_limit(name: str, scope: str, seed: int, n: int) -> None:
    E, labels = batch_for(scope, seed)

    def totals(k: float) -> Tensor:
        table = expand(E, labels, k, scope=scope, metric=LOSSES[name].metric)
        return getattr(losses, name)(table).total

    assert (totals(math.inf) >= totals(n) - 1e-9).all()


def test_inner_products_gain_nothing_without_normalising_again() -> None:
    E, labels = batch_for("class_pair", unit=False)
    limit, mined = (expand(E, labels, n, normalize_synthetic=False, metric="inner").negative for n in (math.inf, 0))
    torch.testing.assert_close(limit, mined)


def test_in_anchor_scope_the_segment_ends_in_the_partner() -> None:
    """The partner of row 0 is nearest to the other class, and no point between them is."""
    E = torch.tensor([[0, 1], [1, 0], [1, 0], [1, 0]], dtype=torch.float64)
    labels = [0, 0, 1, 1]
    assert expand(E, labels, 50, scope="anchor").negative[0, 1] < 1
    assert expand(E, labels, math.inf, scope="anchor").negative[0, 1] == 1
    winner = hardest(E, labels, math.inf, scope="anchor")
    assert winner.ends[0, 1].tolist() == [[1, 1], [2, 2]]


def test_with_a_memory_one_end_of_a_segment_is_current() -> None:
    """Class 0: its past rows span the arc nearest to class 1, and with its current row arcs that come less near."""
    E = torch.tensor([[1, 1, 0.2], [1, -1, 0.2], [-1, 0.3, 0.1], [1, 0, 1]], dtype=torch.float64)
    E = E / E.norm(dim=1, keepdim=True)
    labels, past = [0, 0, 0, 1], torch.tensor([True, True, False, False])
    ours, theirs = expand(E, labels, math.inf, from_memory=past).negative
    for finite in (3, 50):
        assert (expand(E, labels, finite, from_memory=past).negative[0] <= ours + 1e-12).all()
    arcs = [zoomed(E, ends, (3, 3), True, "euclidean") for ends in ((0, 2), (1, 2), (0, 1))]
    torch.testing.assert_close(float(ours[1]), max(arcs[:2]))
    torch.testing.assert_close(float(theirs[0]), max(arcs))


def degenerate(kind: str) -> Tensor:
    E, _ = batch_for("anchor", 1)
    E = E.clone()
    match kind:
        case "equal ends":
            E[1] = E[0]
        case "nearly equal ends":
            E[1] = E[0] + 1e-9 * E[2]
        case "opposite ends":
            E[1] = -E[0]
        case "nearly opposite ends":
            E[1] = -E[0] + 1e-9 * E[2]
        case "ends that are opposite to float32":
            E[1] = -E[0] + 1e-3 * E[2]
        case "ends that are opposite to neither":
            E[1] = -E[0] + 0.1 * E[2]
        case "the same arc in two classes":
            E[2:4] = E[0:2]
        case "arcs of one great circle":
            E[:, 2:] = 0
        case "arcs at right angles":
            E = torch.eye(8, dtype=E.dtype)
        case "all rows equal":
            E[:] = E[0]
        case "a row of zeros":
            E[0] = 0
    norms = E.norm(dim=1, keepdim=True)
    return E / torch.where(norms > 0, norms, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "kind",
    [
        "equal ends",
        "nearly equal ends",
        "opposite ends",
        "nearly opposite ends",
        "ends that are opposite to float32",
        "ends that are opposite to neither",
        "the same arc in two classes",
        "arcs of one great circle",
        "arcs at right angles",
        "all rows equal",
        "a row of zeros",
    ],
)
@every_scope
@pytest.mark.parametrize(("normalize", "metric"), [(True, "inner"), (False, "euclidean")])
def test_degenerate_segments_have_values_and_gradients(
    kind: str, dtype: torch.dtype, scope: str, normalize: bool, metric: str
) -> None:
    E, labels = degenerate(kind).to(dtype).requires_grad_(), [0, 0, 1, 1, 2, 2, 3, 3]
    options: dict[str, Any] = {"scope": scope, "normalize_synthetic": normalize, "metric": metric}
    pairs = expand(E, labels, math.inf, **options)
    (gradient,) = torch.autograd.grad(pairs.negative[pairs.negative_mask].sum(), E)
    assert pairs.negative.isfinite().all()
    assert gradient.isfinite().all()
    assert (pairs.negative <= 1 + 1e-5).all()
    slack = 1e-5 if dtype == torch.float32 else 1e-9
    if dtype == torch.float32 and "opposite" in kind:
        slack = 1e-3  # of a squared norm of 1e-4, read off products of 1, no more than three digits are known
    for n in (0, 1, 2, 7, 20, 100):
        assert (pairs.negative >= expand(E, labels, n, **options).negative - slack).all()


@pytest.mark.parametrize("gap", [0.03, 0.01, 1e-3, 1e-4, 2e-5, 1e-5, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_where_the_middle_is_no_point_what_lies_beside_it_is_found(dtype: torch.dtype, gap: float) -> None:
    """Ends nearly opposite: the arc sweeps through all directions within a few weights around one half."""
    least = SMALLEST_SQUARE[dtype]
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        E = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        E[1] = -E[0] + gap * E[1]
        E = (E / E.norm(dim=1, keepdim=True)).to(dtype)
        found = expand(E, [0, 0, 1, 1, 1], math.inf).negative[0, 1]
        # Along the first arc, densely about its middle, by the points that are points.
        near = gap * torch.linspace(-20, 20, 100_001, dtype=torch.float64)
        u = torch.cat([torch.linspace(0, 1, 1001, dtype=torch.float64), 0.5 + near])
        x = u[:, None] * E[0].double() + (1 - u[:, None]) * E[1].double()
        square = (x * x).sum(dim=1)
        x = x[(square >= least * 1.001) & (u >= 0) & (u <= 1)]
        reached = (x / x.norm(dim=1, keepdim=True)) @ E[2:].double().T
        assert found >= reached.max() - (2e-3 if dtype == torch.float32 else 1e-6)


def holed(sizes: dict[int, int], d: int) -> tuple[Tensor, list[int]]:
    """Classes of several sizes, unit rows in float64; the first two rows of every third class are nearly opposite."""
    generator = torch.Generator().manual_seed(d)
    counts = [size for size, count in sizes.items() for _ in range(count)]
    labels = [label for label, size in enumerate(counts) for _ in range(size)]
    E = torch.randn(len(labels), d, generator=generator, dtype=torch.float64)
    for label in range(0, len(counts), 3):
        first = labels.index(label)
        E[first + 1] = -E[first] + 1e-6 * (label % 2) * E[first + 1]
    return E / E.norm(dim=1, keepdim=True), labels


@every_scope
@pytest.mark.parametrize("limit", [1, 1 << 18], ids=["block by block", "at once"])
@pytest.mark.parametrize("sizes", [{2: 3, 4: 3}, {2: 7}, {6: 4}], ids=str)
@pytest.mark.parametrize("d", [2, 3, 8])
def test_among_many_holes_no_point_is_harder_than_the_winners(
    d: int, sizes: dict[int, int], limit: int, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infinity, "LIMIT", limit)
    E, labels = holed(sizes, d)
    winners, pairs = hardest(E, labels, math.inf, scope=scope), expand(E, labels, math.inf, scope=scope)
    rounding = 4 * torch.finfo(E.dtype).eps / SMALLEST_SQUARE[E.dtype]  # of the squared norm at the edge of a hole
    classes = sorted(set(labels))
    clouds = [sampled(E, rows_of_class(labels, label), scope) for label in classes]
    for i, label in enumerate(labels):
        ours = {"anchor": lambda i: sampled(E, [i, mate(i)], scope), "negative": lambda i: E[i : i + 1]}
        left = ours[scope](i) if scope in ours else clouds[label]
        for other in set(classes) - {label}:
            value = pairs.negative[i, other]
            assert value >= (left @ clouds[other].T).max() - rounding
            row = label if scope == "class_pair" else i
            ends, weights = winners.ends[row, other], winners.weights[row, other]
            x, y = (on_segment(E, tuple(e), w[:1], True)[0] for e, w in zip(ends.tolist(), weights, strict=True))
            torch.testing.assert_close(value, x @ y, rtol=0, atol=rounding)


def sampled(E: Tensor, rows: list[int], scope: str) -> Tensor:
    """The rows, points of their segments that have a direction, and the edges of holes, found by halving."""
    points = [E[rows]]
    every_two = list(zip(rows[::2], rows[1::2], strict=True)) if scope == "anchor" else whole_segments(rows)
    for i, j in every_two:
        grid = torch.linspace(0, 1, 42, dtype=E.dtype)[1:-1]
        u = torch.cat([grid, *(edge[None] for edge in halved(E[i], E[j]))])
        x = u[:, None] * E[i] + (1 - u[:, None]) * E[j]
        norm = x.norm(dim=1, keepdim=True)
        points.append((x / norm)[norm[:, 0] ** 2 >= SMALLEST_SQUARE[E.dtype]])
    return torch.cat(points)


def halved(x: Tensor, y: Tensor) -> list[Tensor]:
    """The weights of x, from either end to the middle, up to which the squared norm is large enough."""
    edges = []
    for end in (0.0, 1.0):
        outside, within = torch.tensor(end, dtype=x.dtype), torch.tensor(0.5, dtype=x.dtype)
        if ((x + y) / 2).square().sum() >= SMALLEST_SQUARE[x.dtype]:
            return []
        for _ in range(60):
            u = (outside + within) / 2
            enough = (u * x + (1 - u) * y).square().sum() >= SMALLEST_SQUARE[x.dtype]
            outside, within = (u, within) if enough else (outside, u)
        edges.append(outside)
    return edges


@pytest.mark.parametrize("natively", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@every_scope
def test_the_gradient_of_nearly_opposite_rows_is_bounded(
    scope: str, dtype: torch.dtype, natively: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not natively:
        monkeypatch.setattr(native, "takes", lambda product: False)
    bound, most = SMALLEST_SQUARE[dtype] ** -0.5, 0.0
    for gap in (0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 0.0):
        for seed in range(6):
            generator = torch.Generator().manual_seed(seed)
            E = torch.randn(6, 4, generator=generator, dtype=torch.float64)
            E[1] = -E[0] + gap * E[1]
            E = (E / E.norm(dim=1, keepdim=True)).to(dtype).requires_grad_()
            at = (2, 0) if scope == "negative" else (0, 1)  # the side that is expanded has the opposite rows
            similarity = expand(E, [0, 0, 1, 1, 1, 1], math.inf, scope=scope).negative[at]
            (gradient,) = torch.autograd.grad(similarity, E)
            assert gradient.norm(dim=1).max() <= 1.02 * bound
            most = max(most, float(gradient.norm(dim=1).max()))
    assert most > 0.2 * bound  # it does come near


def test_rows_off_the_sphere_are_refused_where_arcs_are_meant() -> None:
    E, labels = batch_for("class_pair", unit=False)
    with pytest.raises(InvalidInput, match=r"n is infinity, but row \d has norm .*; pass L2-normalised rows"):
        expand(E, labels, math.inf)
    assert EmbeddingExpansion(LOSSES["triplet"](), n=math.inf)(E, labels).isfinite()  # modules normalise first


@pytest.mark.parametrize("options", [{"chunk": 3}, {"max_segments": 2}], ids=str)
def test_blocks_and_fewer_segments_go_with_it(options: dict[str, Any]) -> None:
    E, labels = batch_for("class_pair")

    def value(**more: Any) -> Tensor:
        loss: PairLoss = EmbeddingExpansion(LOSSES["multi_similarity"](), n=math.inf, **more)
        return loss(E, labels)

    if "chunk" in options:
        torch.testing.assert_close(value(**options), value())
    else:
        assert value(**options) < value()
