"""Laws that every loss keeps, whatever the batch: what may change nothing, what may only grow, what adds up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embedding_expansion.core import losses
from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.expansion import expand
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pairs import Pairs, compare
from embedding_expansion.core.terms import Terms

from . import explicit, oracles
from .batches import batch, batch_for, seeds

every_case = pytest.mark.parametrize(("name", "scope"), oracles.CASES)


def terms_of(name: str, scope: str | None) -> Callable[..., Terms]:
    """The loss as a function of embeddings and labels; without a scope the plain one."""

    def terms(E: Tensor, labels: Tensor, *, n: int = 2, rows: Tensor | None = None) -> Terms:
        if scope is None:
            pairs = compare(E, labels, metric=oracles.METRICS[name], rows=rows)
        else:
            pairs = expand(E, labels, n, scope=scope, metric=oracles.METRICS[name], rows=rows)
        loss = LOSSES[name]()
        statistic = None
        if loss.has_statistic and rows is not None:  # which is that of the whole batch, whichever rows are looked at
            statistic = loss.batch_statistic(table(E, labels, n))
        return loss.terms(pairs, Batch.of(Inputs(E, labels, rows)), statistic)

    def table(E: Tensor, labels: Tensor, n: int) -> Pairs:
        metric = oracles.METRICS[name]
        return compare(E, labels, metric=metric) if scope is None else expand(E, labels, n, scope=scope, metric=metric)

    return terms


def assert_equal(ours: Terms, theirs: Terms, order: Tensor | None = None) -> None:
    for given_, expected in ((ours.total, theirs.total), (ours.weight, theirs.weight)):
        torch.testing.assert_close(given_, expected if order is None else expected[:, order], rtol=1e-9, atol=1e-9)


@every_case
@given(seed=seeds)
def test_permuting_the_batch_permutes_the_terms(name: str, scope: str | None, seed: int) -> None:
    E, labels = batch_for(scope, seed)
    b = len(labels)
    if scope == "anchor":  # rows stay paired, but either of the two may come first
        order = 2 * torch.randperm(b // 2)[:, None] + torch.stack([torch.randperm(2) for _ in range(b // 2)])
        order = order.reshape(-1)
    else:
        order = torch.randperm(b)
    terms = terms_of(name, scope)
    assert_equal(terms(E[order], labels[order]), terms(E, labels), order)


@every_case
@given(seed=seeds)
def test_renaming_the_classes_changes_nothing(name: str, scope: str | None, seed: int) -> None:
    E, labels = batch_for(scope, seed)
    names, place = torch.unique(labels, return_inverse=True)
    renamed = (torch.randperm(len(names)) * 17 - 5)[place]
    terms = terms_of(name, scope)
    assert_equal(terms(E, renamed), terms(E, labels))


@pytest.mark.parametrize(("name", "scope"), [case for case in oracles.CASES if case[0] != "snr_contrastive"])
@given(seed=seeds, d=st.integers(2, 6))
def test_rotating_the_space_changes_nothing(name: str, scope: str | None, seed: int, d: int) -> None:
    E, labels = batch_for(scope, seed, d=d)
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    terms = terms_of(name, scope)
    assert_equal(terms(E @ rotation, labels), terms(E, labels))


@every_case
@given(seed=seeds)
def test_which_rows_are_anchors_changes_no_anchors_terms(name: str, scope: str | None, seed: int) -> None:
    E, labels = batch_for(scope, seed)
    rows = torch.randperm(len(labels))[: 1 + seed % (len(labels) - 1)]
    terms = terms_of(name, scope)
    assert_equal(terms(E, labels, rows=rows), terms(E, labels), rows)


@every_case
@given(seed=seeds, block=st.integers(1, 5))
def test_blocks_of_rows_add_up_to_the_whole(name: str, scope: str | None, seed: int, block: int) -> None:
    E, labels = batch_for(scope, seed)
    E.requires_grad_()
    terms = terms_of(name, scope)
    whole = terms(E, labels)
    blocks = [terms(E, labels, rows=rows) for rows in torch.arange(len(labels)).split(block)]
    weight = sum(part.weight.sum(1) for part in blocks)
    torch.testing.assert_close(weight, whole.weight.sum(1))
    value = sum((part.total.sum(1) / weight).sum() for part in blocks)
    torch.testing.assert_close(value, whole.mean(), rtol=1e-9, atol=1e-9)
    ours, expected = (torch.autograd.grad(v, E)[0] for v in (value, whole.mean()))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scope", ["class_pair", "anchor", "negative"])
@pytest.mark.parametrize("name", [name for name in oracles.EXPANDABLE if LOSSES[name].monotone])
@given(seed=seeds, n=st.integers(0, 4))
def test_every_monotone_loss_grows_with_the_hardness(name: str, scope: str, seed: int, n: int) -> None:
    E, labels = batch_for(scope, seed)
    terms = terms_of(name, scope)
    none, some, more = (terms(E, labels, n=k) for k in (0, n, 2 * n + 1))
    assert (some.total >= none.total - 1e-9).all()
    assert (more.total >= some.total - 1e-9).all()
    torch.testing.assert_close(more.weight, none.weight)


@pytest.mark.parametrize("name", ["n_pair", "multi_similarity"])
@given(seed=seeds, n=st.integers(1, 8))
def test_losses_on_inner_products_gain_nothing_without_normalising_again(name: str, seed: int, n: int) -> None:
    E, labels = batch_for("class_pair", seed)
    ours, mined = (
        getattr(losses, name)(expand(E, labels, k, normalize_synthetic=False, metric="inner")) for k in (n, 0)
    )
    assert_equal(ours, mined)


@every_case
@given(seed=seeds)
def test_what_weighs_nothing_adds_nothing(name: str, scope: str | None, seed: int) -> None:
    E, labels = batch_for(scope, seed)
    terms = terms_of(name, scope)(E, labels)
    assert (terms.total[terms.weight == 0] == 0).all()
    assert (terms.weight >= 0).all()
    assert terms.total.isfinite().all()


@pytest.mark.parametrize("metric", ["euclidean", "inner"])
@given(seed=seeds)
def test_a_class_pair_of_two_images_each_is_the_harder_of_its_two_anchors(metric: str, seed: int) -> None:
    E, labels = batch((2, 2, 2), seed=seed, paired=True)
    by_class = expand(E, labels, 2, scope="class_pair", metric=metric)
    by_anchor = expand(E, labels, 2, scope="anchor", metric=metric)
    mates = torch.tensor([explicit.mate(i) for i in range(len(E))])
    harder = torch.maximum(by_anchor.negative[: len(E)], by_anchor.negative[mates])
    torch.testing.assert_close(by_class.negative[by_class.negative_mask], harder[by_class.negative_mask])
