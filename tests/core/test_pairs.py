"""The tables: compare() and expand() hold what the explicit construction holds, value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion.core.expansion import expand
from embedding_expansion.core.pairs import Pairs, compare

from . import oracles
from .batches import UNEQUAL, batch, batch_for

METRICS = ["euclidean", "inner"]


def unmasked(values: Tensor, mask: Tensor) -> list[Tensor]:
    return [row[keep] for row, keep in zip(values, mask, strict=True)]


def assert_same_table(pairs: Pairs, table: oracles.Table, E: Tensor) -> None:
    """Values of every anchor's positives (in any order of slots) and negatives (in order), and their gradients."""
    a = len(table.anchors)
    assert pairs.positive.shape == pairs.positive_mask.shape
    assert pairs.negative.shape == pairs.negative_mask.shape
    assert pairs.positive.shape[1] == max((len(row) for row in table.positives), default=0)
    ours, theirs = [], []
    for given, expected in zip(unmasked(pairs.positive, pairs.positive_mask), table.positives, strict=True):
        assert len(given) == len(expected)
        ours.append(given.sort().values)
        theirs += sorted(expected, key=Tensor.item)
    for given, expected in zip(unmasked(pairs.negative[:a], pairs.negative_mask[:a]), table.negatives, strict=True):
        assert len(given) == len(expected)
        ours.append(given)
        theirs += expected
    ours_flat, theirs_flat = torch.cat(ours), torch.stack(theirs)
    torch.testing.assert_close(ours_flat, theirs_flat, rtol=0, atol=1e-12)
    weights = torch.randn(len(ours_flat), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((ours_flat * weights).sum(), E)
    expected_gradient = oracles.gradient((theirs_flat * weights).sum(), E)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


def assert_masked_entries_are_finite(pairs: Pairs) -> None:
    assert pairs.positive.isfinite().all()
    assert pairs.negative.isfinite().all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("unit", [True, False])
def test_compare_holds_every_pair_of_the_batch(metric: str, unit: bool) -> None:
    E, labels = batch(UNEQUAL, unit=unit)
    E.requires_grad_()
    pairs = compare(E, labels, metric=metric)
    assert not pairs.per_class
    assert pairs.negative.shape == (len(E), len(E))
    assert torch.equal(pairs.negative_mask, labels[:, None] != labels[None])
    assert_masked_entries_are_finite(pairs)
    assert_same_table(pairs, oracles.plain_table(E, labels.tolist(), metric), E)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("normalize_synthetic", [True, False])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("scope", ["class_pair", "anchor", "negative"])
def test_expand_holds_the_hardest_pair_of_the_explicit_construction(
    scope: str, n: int, normalize_synthetic: bool, unit: bool, metric: str
) -> None:
    E, labels = batch_for(scope, seed=n, unit=unit)
    E.requires_grad_()
    options: dict[str, Any] = {"scope": scope, "normalize_synthetic": normalize_synthetic, "metric": metric}
    pairs = expand(E, labels, n, **options)
    table = oracles.expanded_table(E, labels.tolist(), n, scope, normalize_synthetic, metric)
    classes = torch.tensor(sorted(set(labels.tolist())))
    assert pairs.per_class == (scope == "class_pair")
    assert (pairs.partner is None) == (scope == "class_pair")
    assert pairs.negative.shape[1] == len(classes)
    assert torch.equal(pairs.negative_mask[: len(E)], labels[:, None] != classes[None])
    assert_masked_entries_are_finite(pairs)
    assert_same_table(pairs, table, E)


@pytest.mark.parametrize("sizes", [(2, 2), (5, 2), (1, 1, 3), (2, 2, 2, 2, 2), (6, 1)])
def test_expand_takes_classes_of_any_size(sizes: tuple[int, ...]) -> None:
    E, labels = batch(sizes, seed=3)
    E.requires_grad_()
    assert_same_table(expand(E, labels, 2), oracles.expanded_table(E, labels.tolist(), 2), E)


@pytest.mark.parametrize("metric", METRICS)
def test_partner_names_the_row_of_the_positives_own_negatives(metric: str) -> None:
    E, labels = batch(UNEQUAL)
    for rows in (None, torch.tensor([7, 0, 4]), torch.tensor([2])):
        pairs = compare(E, labels, metric=metric, rows=rows)
        table = oracles.plain_table(E, labels.tolist(), metric, None if rows is None else rows.tolist())
        assert pairs.partner is not None
        for i, (js, similarities) in enumerate(zip(table.positive_rows, table.positives, strict=True)):
            slots = pairs.positive_mask[i].nonzero()[:, 0].tolist()
            for s in slots:
                row = int(pairs.partner[i, s])
                ours = pairs.negative[row][pairs.negative_mask[row]]
                (which,) = [k for k in range(len(js)) if abs(similarities[k] - pairs.positive[i, s]) < 1e-12]
                theirs = torch.stack(table.partner_negatives[i][which])
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_partners_rows_are_appended_only_where_they_are_no_anchors_and_only_if_asked_for() -> None:
    E, labels = batch(UNEQUAL)
    rows = torch.tensor([7, 0, 4])
    anchors = set(rows.tolist())
    partners = {j for i in anchors for j in range(len(E)) if labels[j] == labels[i] and j != i}
    assert compare(E, labels, rows=rows).negative.shape[0] == 3 + len(partners - anchors)
    assert compare(E, labels, rows=rows, partners=False).negative.shape[0] == 3
    assert compare(E, labels).negative.shape[0] == len(E)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_pick_anchors_in_the_order_given(metric: str) -> None:
    E, labels = batch(UNEQUAL)
    E.requires_grad_()
    rows = [6, 1, 9, 3]
    pairs = compare(E, labels, metric=metric, rows=torch.tensor(rows))
    assert_same_table(pairs, oracles.plain_table(E, labels.tolist(), metric, rows), E)
    for scope in ("class_pair", "anchor", "negative"):
        E, labels = batch_for(scope)
        E.requires_grad_()
        rows = [6, 1, 3]
        pairs = expand(E, labels, 3, scope=scope, metric=metric, rows=torch.tensor(rows))
        assert_same_table(pairs, oracles.expanded_table(E, labels.tolist(), 3, scope, True, metric, rows), E)


def test_for_unit_rows_both_metrics_are_one_table() -> None:
    E, labels = batch(UNEQUAL)
    for function in (compare, lambda *args, **options: expand(*args, 3, **options)):
        euclidean, inner = (function(E, labels, metric=metric) for metric in METRICS)
        torch.testing.assert_close(euclidean.positive, inner.positive, rtol=0, atol=1e-12)
        torch.testing.assert_close(euclidean.negative, inner.negative, rtol=0, atol=1e-12)


def test_labels_may_be_a_list_or_a_numpy_array() -> None:
    E, labels = batch(UNEQUAL)
    for function in (compare, lambda *args: expand(*args, 2)):
        expected = function(E, labels)
        for given in (
            labels.tolist(),
            labels.numpy(),
            labels.numpy().astype("int32") if labels.max() < 2**31 else labels,
        ):
            pairs = function(E, given)
            assert torch.equal(pairs.negative, expected.negative)
            assert torch.equal(pairs.positive, expected.positive)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8])
def test_labels_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    E, labels = batch((2, 3, 2))
    small = torch.unique(labels, return_inverse=True)[1]
    assert torch.equal(expand(E, small.to(dtype), 2).negative, expand(E, labels, 2).negative)


def test_labels_beyond_2_to_the_53_are_told_apart() -> None:
    E, _ = batch((2, 2))
    large = [2**53, 2**53, 2**53 + 1, 2**53 + 1]
    small = [0, 0, 1, 1]
    for kind in (list, torch.tensor, lambda given: torch.tensor(given).numpy()):
        assert torch.equal(compare(E, kind(large)).negative_mask, compare(E, kind(small)).negative_mask)
        assert torch.equal(expand(E, kind(large), 2).negative, expand(E, kind(small), 2).negative)
