"""The losses, plain and expanded, against slow loops of the paper's formulas: value, terms, gradient."""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion import TripletLoss
from embedding_expansion.core import losses
from embedding_expansion.core.expansion import expand
from embedding_expansion.core.pairs import Pairs, compare
from embedding_expansion.core.terms import Terms

from . import oracles
from .batches import UNEQUAL, batch, batch_for

NAMES = list(oracles.ORACLES)
SIX = ["contrastive", "triplet", "hphn_triplet", "n_pair", "lifted_structure", "multi_similarity"]  # the paper's
FUNCTIONS: dict[str, Callable[..., Terms]] = {name: getattr(losses, name) for name in NAMES}
OTHER_PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    *((name, parameters) for name, parameters in oracles.OTHERS.items() if name in oracles.EXPANDABLE),
    ("contrastive", {"margin": 0.5}),
    ("triplet", {"margin": 1.3}),
    ("hphn_triplet", {"margin": 0.7}),
    ("hphn_triplet", {"soft_margin": True}),
    ("n_pair", {"scale": 8.0}),
    ("lifted_structure", {"margin": 0.3}),
    ("multi_similarity", {"alpha": 5.0, "beta": 11.0, "base": 0.1}),
    ("contrastive", {"squared": False, "average": "active"}),
    ("contrastive", {"average": "active", "margin": 0.4}),
    *(
        ("triplet", {"mining": mining, "soft_margin": soft, "squared": squared, "average": average, "margin": 0.5})
        for mining in ("all", "hard", "semihard", "easy_positive")
        for soft in (False, True)
        for squared in (False, True)
        for average in ("all", "active")
    ),
    ("triplet", {"mining": "hard", "margin": -0.1}),
    ("margin", {"margin": 0.5, "beta": 0.9}),
    ("margin", {"margin": 0.1, "beta": 1.0, "count": "triplets"}),
    ("generalized_lifted_structure", {"margin": 0.3, "positive_margin": 0.2}),
    ("circle", {"margin": 0.25, "scale": 16.0}),
    ("sup_con", {"temperature": 0.5}),
    ("nt_xent", {"temperature": 0.5}),
    ("nca", {"scale": 3.0}),
    ("nca", {"scale": 3.0, "objective": "probability"}),
    ("tuplet_margin", {"margin": 20.0, "scale": 8.0}),
    ("intra_pair_variance", {"positive_epsilon": 0.3, "negative_epsilon": -0.2}),
    ("ranked_list", {"margin": 0.2, "alpha": 1.0, "positive_temperature": 3.0, "imbalance": 0.2}),
    ("ranked_list", {"negative_temperature": 0.0}),
    ("selectively_contrastive", {"hard_weight": 0.1}),
    ("selectively_contrastive", {"form": "program"}),
    ("angular", {"angle": 36.0}),
    ("histogram", {"bins": 7}),
    ("fast_ap", {"bins": 5}),
    ("smooth_ap", {"temperature": 0.2}),
    ("smooth_ap", {"temperature": 0.2, "query_counts": True}),
    ("recall_at_k", {"ks": (1, 3), "rank_temperature": 0.5, "temperature": 0.2}),
    ("recall_at_k", {"form": "program"}),
    ("recall_at_k", {"form": "program", "ks": (1, 2, 3), "rank_temperature": 4.0, "temperature": 0.2}),
]
PLAIN_PARAMETERS: list[tuple[str, dict[str, Any]]] = [
    ("snr_contrastive", {"margin": 1.7, "positive_margin": 0.3}),
    ("snr_contrastive", {"average": "active"}),
]


def assert_same_terms(terms: Terms, expected: list[list[oracles.Term]], E: Tensor) -> None:
    assert terms.total.shape == terms.weight.shape
    torch.testing.assert_close(terms.total, oracles.totals(expected), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms.weight.double(), oracles.weights(expected), rtol=0, atol=0)
    assert not terms.weight.requires_grad
    value, expected_value = terms.mean(), oracles.mean(expected)
    assert value.shape == ()
    torch.testing.assert_close(value, expected_value, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(value, E, retain_graph=True)  # the tables are shared between tests
    expected_gradient = oracles.gradient(expected_value, E)
    # Terms of opposite sign cancel in a coordinate, so that its error is relative to the largest one.
    atol = 1e-9 * max(1, float(expected_gradient.abs().max()))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=atol)


@functools.cache
def plain_case(seed: int, unit: bool, metric: str) -> tuple[Tensor, Pairs, oracles.Table]:
    E, labels = batch(UNEQUAL, seed=seed, unit=unit)
    E.requires_grad_()
    return E, compare(E, labels, metric=metric), oracles.plain_table(E, labels.tolist(), metric)


@functools.cache
def expanded_case(
    scope: str, n: int, normalize_synthetic: bool, unit: bool, metric: str
) -> tuple[Tensor, Pairs, oracles.Table]:
    E, labels = batch_for(scope, seed=20 + n, unit=unit)
    E.requires_grad_()
    pairs = expand(E, labels, n, scope=scope, normalize_synthetic=normalize_synthetic, metric=metric)
    return E, pairs, oracles.expanded_table(E, labels.tolist(), n, scope, normalize_synthetic, metric)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_plain_loss_equals_its_formula(name: str, unit: bool) -> None:
    for seed in range(3):
        E, pairs, table = plain_case(seed, unit, oracles.METRICS[name])
        assert_same_terms(FUNCTIONS[name](pairs), oracles.ORACLES[name](table), E)


# A loss reads only the table, however it was made: two losses are tried on all kinds of tables, the others on some.
TABLES = list(itertools.product([0, 1, 2, 3, 8], [True, False], [True, False]))  # n, unit, normalize_synthetic
SOME_TABLES = [(0, True, True), (2, True, True), (3, False, False)]


@pytest.mark.parametrize(
    ("name", "n", "unit", "normalize_synthetic"),
    [
        (name, *table)
        for name in oracles.EXPANDABLE
        for table in (TABLES if name in ("triplet", "multi_similarity") else SOME_TABLES)
    ],
)
@pytest.mark.parametrize("scope", ["class_pair", "anchor", "negative"])
def test_expanded_loss_equals_its_formula(name: str, scope: str, n: int, unit: bool, normalize_synthetic: bool) -> None:
    E, pairs, table = expanded_case(scope, n, normalize_synthetic, unit, oracles.METRICS[name])
    assert_same_terms(FUNCTIONS[name](pairs), oracles.ORACLES[name](table), E)


@pytest.mark.parametrize("metric", ["euclidean", "inner"])
@pytest.mark.parametrize("name", oracles.EXPANDABLE)
def test_every_loss_can_read_either_metric_of_unit_rows(name: str, metric: str) -> None:
    E, pairs, table = plain_case(1, True, metric)
    assert_same_terms(FUNCTIONS[name](pairs), oracles.ORACLES[name](table), E)
    for scope in ("class_pair", "anchor", "negative"):
        E, pairs, table = expanded_case(scope, 2, True, True, metric)
        assert_same_terms(FUNCTIONS[name](pairs), oracles.ORACLES[name](table), E)


@pytest.mark.parametrize(("name", "parameters"), OTHER_PARAMETERS)
def test_parameters_are_the_formulas(name: str, parameters: dict[str, Any]) -> None:
    E, pairs, table = plain_case(2, True, oracles.METRICS[name])
    assert_same_terms(FUNCTIONS[name](pairs, **parameters), oracles.ORACLES[name](table, **parameters), E)
    E, pairs, table = expanded_case("class_pair", 3, True, True, oracles.METRICS[name])
    assert_same_terms(FUNCTIONS[name](pairs, **parameters), oracles.ORACLES[name](table, **parameters), E)


@pytest.mark.parametrize(("name", "parameters"), PLAIN_PARAMETERS)
def test_parameters_of_losses_without_expansion_are_the_formulas(name: str, parameters: dict[str, Any]) -> None:
    E, pairs, table = plain_case(2, False, oracles.METRICS[name])
    assert_same_terms(FUNCTIONS[name](pairs, **parameters), oracles.ORACLES[name](table, **parameters), E)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 1, 3), (5, 2, 1)])
@pytest.mark.parametrize("name", oracles.EXPANDABLE)
def test_classes_of_any_size_have_the_papers_normalisers(name: str, sizes: tuple[int, ...]) -> None:
    E, labels = batch(sizes, seed=9)
    E.requires_grad_()
    metric, oracle = oracles.METRICS[name], oracles.ORACLES[name]
    plain, expanded = compare(E, labels, metric=metric), expand(E, labels, 2, metric=metric)
    assert_same_terms(FUNCTIONS[name](plain), oracle(oracles.plain_table(E, labels.tolist(), metric)), E)
    table = oracles.expanded_table(E, labels.tolist(), 2, metric=metric)
    assert_same_terms(FUNCTIONS[name](expanded), oracle(table), E)


@pytest.mark.parametrize("name", SIX)
def test_an_anchor_without_a_positive_weighs_nothing_but_in_multi_similarity(name: str) -> None:
    E, labels = batch(UNEQUAL)
    (lone,) = ((labels[:, None] == labels[None]).sum(1) == 1).nonzero()[:, 0].tolist()
    for pairs in (compare(E, labels), expand(E, labels, 2)):
        terms = FUNCTIONS[name](pairs)
        if name == "multi_similarity":
            assert terms.weight[0, lone] == 1
            assert terms.total[0, lone] > 0
        else:
            assert terms.weight[0, lone] == 0
            assert terms.total[0, lone] == 0
        if name == "contrastive":
            assert terms.weight[1, lone] == pairs.negative_mask[lone].sum()


@pytest.mark.parametrize(
    ("name", "parameters"), [*((name, {}) for name in oracles.EXPANDABLE), ("hphn_triplet", {"soft_margin": True})]
)
def test_an_anchor_without_negatives_adds_nothing_but_what_pulls(name: str, parameters: dict[str, Any]) -> None:
    """Of one class: the positive mean of contrastive and the positive term of multi-similarity are what is left."""
    E, labels = batch((4,))
    E.requires_grad_()
    metric, oracle = oracles.METRICS[name], oracles.ORACLES[name]
    for pairs, table in (
        (compare(E, labels, metric=metric), oracles.plain_table(E, labels.tolist(), metric)),
        (expand(E, labels, 2, metric=metric), oracles.expanded_table(E, labels.tolist(), 2, metric=metric)),
    ):
        terms = FUNCTIONS[name](pairs, **parameters)
        assert_same_terms(terms, oracle(table, **parameters), E)
        if name in SIX and name not in ("contrastive", "multi_similarity"):
            assert (terms.total == 0).all()
            assert (terms.weight == (0 if name == "hphn_triplet" else 3)).all()


@pytest.mark.parametrize("name", SIX)
def test_every_anchors_weight_is_its_share_of_the_papers_normaliser(name: str) -> None:
    E, labels = batch((3, 1, 4))
    positives = (labels[:, None] == labels[None]).sum(1) - 1
    negatives = (labels[:, None] != labels[None]).sum(1)
    weight = FUNCTIONS[name](compare(E, labels)).weight
    expected = {
        "contrastive": torch.stack([positives, negatives]),
        "hphn_triplet": (positives > 0)[None],
        "multi_similarity": torch.ones_like(positives)[None],
    }.get(name, positives[None])
    assert torch.equal(weight.double(), expected.double())


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        (name, scope)
        for name in NAMES
        for scope in (None, "class_pair", "anchor", "negative")
        if name != "circle"  # whose weights pass no gradient on
        and (scope is None or name in oracles.EXPANDABLE)
    ],
)
def test_gradcheck(name: str, scope: str | None) -> None:
    E, labels = batch((2, 2, 2), 3, seed=4, paired=True) if scope == "anchor" else batch((3, 1, 2), 3, seed=4)
    metric = oracles.METRICS[name]

    def value(E: Tensor) -> Tensor:
        pairs = compare(E, labels, metric=metric) if scope is None else expand(E, labels, 2, scope=scope, metric=metric)
        return FUNCTIONS[name](pairs).mean()

    assert value(E) > 0
    assert torch.autograd.gradcheck(value, E.requires_grad_())


def test_gradcheck_where_synthetic_points_are_not_normalised_again() -> None:
    E, labels = batch((3, 1, 2), 3, seed=4, unit=False)
    for metric in ("euclidean", "inner"):
        for normalize_synthetic in (True, False):

            def negatives(E: Tensor, metric: str = metric, again: bool = normalize_synthetic) -> Tensor:
                return expand(E, labels, 3, metric=metric, normalize_synthetic=again).negative

            assert torch.autograd.gradcheck(negatives, E.requires_grad_())


def test_mean_adds_the_means_and_is_zero_where_nothing_weighs() -> None:
    total = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    value = Terms(total, torch.tensor([[1.0, 3.0], [0.0, 0.0]])).mean()
    assert value.item() == 0.75
    value.backward()
    assert total.grad.tolist() == [[0.25, 0.25], [0.0, 0.0]]


def test_expanded_losses_count_each_other_class_once_and_plain_ones_every_point() -> None:
    E, labels = batch((3, 4, 2))
    assert losses.contrastive(compare(E, labels)).weight[1].tolist() == (
        (labels[:, None] != labels[None]).sum(1).tolist()
    )
    assert losses.contrastive(expand(E, labels, 2)).weight[1].tolist() == [2] * 9


def test_no_synthetic_points_is_mining_and_not_the_plain_loss() -> None:
    E, labels = batch((3, 4, 2))
    plain, mined = losses.n_pair(compare(E, labels)).mean(), losses.n_pair(expand(E, labels, 0)).mean()
    assert abs(plain - mined) > 1e-3


@pytest.mark.parametrize("few", [0, 16])
@pytest.mark.parametrize("mining", ["all", "hard", "semihard", "easy_positive"])
def test_triplets_are_counted_by_sorting_as_by_comparing(
    mining: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[TripletLoss.__module__], "FEW", few)
    E, labels = batch((7, 5, 1, 2), seed=3)
    E.requires_grad_()
    pairs, table = compare(E, labels), oracles.plain_table(E, labels.tolist())
    parameters = {"mining": mining, "margin": 0.4}
    assert_same_terms(FUNCTIONS["triplet"](pairs, **parameters), oracles.ORACLES["triplet"](table, **parameters), E)
