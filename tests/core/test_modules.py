"""The nn.Module faces: they normalise, take the function's parameters, and are the functions otherwise."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import embedding_expansion
from embedding_expansion.core import losses
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.expansion import expand
from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES, MultiSimilarityLoss
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import compare
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput

from . import oracles
from .batches import batch_for

every_case = pytest.mark.parametrize(("name", "scope"), oracles.CASES)
every_loss = pytest.mark.parametrize("name", list(oracles.ORACLES))
every_scope = pytest.mark.parametrize("scope", [None, "class_pair", "anchor", "negative"])


def table(name: str, scope: str | None, E: Tensor, labels: Tensor, **options: Any) -> Any:
    if scope is None:
        return compare(E, labels, metric=oracles.METRICS[name], **options)
    return expand(E, labels, 2, scope=scope, metric=oracles.METRICS[name], **options)


def module(name: str, scope: str | None, **options: Any) -> PairLoss:
    loss = LOSSES[name](**options)
    return loss if scope is None else EmbeddingExpansion(loss, n=2, scope=scope)


def test_every_loss_has_an_oracle_and_can_be_imported_from_the_package() -> None:
    assert set(LOSSES) == set(oracles.ORACLES)
    for name, loss in LOSSES.items():
        assert loss is getattr(embedding_expansion, loss.__name__)
        assert loss.function is getattr(losses, name)
        assert issubclass(loss, PairLoss)


@pytest.mark.parametrize("name", [*LOSSES, *PROXY_LOSSES])
def test_a_module_takes_the_parameters_of_its_function(name: str) -> None:
    """The page of losses pins the defaults; a test compares it with the code."""
    loss: type[PairLoss] = {**LOSSES, **PROXY_LOSSES}[name]
    function = list(inspect.signature(loss.function).parameters.values())[1:]
    expected = [p for p in function if p.kind is not p.KEYWORD_ONLY]
    constructor = inspect.signature(loss).parameters
    assert [(p.name, p.default) for p in expected] == [(p, constructor[p].default) for p in [q.name for q in expected]]
    kinds = [(p.annotation, constructor[p.name].annotation) for p in expected if name != "margin" or p.name != "beta"]
    assert all(one == other for one, other in kinds)  # but for beta, of which the function takes one for each anchor


@pytest.mark.parametrize("name", sorted(oracles.NOT_EXPANDABLE))
def test_a_loss_that_cannot_be_expanded_says_why(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{LOSSES[name].__name__} cannot be expanded: the distance"):
        EmbeddingExpansion(LOSSES[name]())


def test_expansion_has_the_papers_defaults() -> None:
    parameters = inspect.signature(EmbeddingExpansion).parameters
    defaults = {key: parameters[key].default for key in ("n", "scope", "normalize_synthetic")}
    assert defaults == {"n": 2, "scope": "class_pair", "normalize_synthetic": True}


@every_case
def test_module_is_the_function_of_normalised_rows(name: str, scope: str | None) -> None:
    E, labels = batch_for(scope, unit=False)
    E.requires_grad_()
    pairs = table(name, scope, torch.nn.functional.normalize(E, dim=1), labels)
    for parameters in ({}, oracles.OTHERS[name]):
        expected = getattr(losses, name)(pairs, **parameters).mean()
        given = module(name, scope, **parameters)(E, labels)
        assert given.shape == ()
        torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-12)
        ours, theirs = (torch.autograd.grad(v, E, retain_graph=True)[0] for v in (given, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@every_case
def test_without_normalize_rows_are_taken_as_they_are(name: str, scope: str | None) -> None:
    E, labels = batch_for(scope, unit=False)
    expected = getattr(losses, name)(table(name, scope, E, labels)).mean()
    torch.testing.assert_close(module(name, scope, normalize=False)(E, labels), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("normalize_synthetic", [True, False])
@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("name", oracles.EXPANDABLE)
def test_expansion_passes_its_own_options_on(name: str, n: int, normalize_synthetic: bool) -> None:
    for scope in ("class_pair", "anchor", "negative"):
        E, labels = batch_for(scope)
        loss = EmbeddingExpansion(LOSSES[name](), n=n, scope=scope, normalize_synthetic=normalize_synthetic)
        pairs = expand(E, labels, n, scope=scope, normalize_synthetic=normalize_synthetic, metric=oracles.METRICS[name])
        expected = getattr(losses, name)(pairs).mean()
        torch.testing.assert_close(loss(E, labels), expected, rtol=1e-9, atol=1e-11)


@every_case
def test_the_terms_per_anchor_have_the_loss_as_their_mean(name: str, scope: str | None) -> None:
    E, labels = batch_for(scope)
    terms = module(name, scope).per_anchor(E, labels)
    assert isinstance(terms, Terms)
    assert terms.total.shape == terms.weight.shape == (len(terms.total), len(E))
    torch.testing.assert_close(terms.mean(), module(name, scope)(E, labels))


def test_reduction_none_gives_the_terms_for_one_release() -> None:
    E, labels = batch_for(None)
    with pytest.warns(DeprecationWarning, match="call loss.per_anchor") as found:
        loss = MultiSimilarityLoss(reduction="none")
    assert found[0].filename == __file__
    assert torch.equal(loss(E, labels).total, MultiSimilarityLoss().per_anchor(E, labels).total)


@every_case
def test_rows_and_past_reach_the_table(name: str, scope: str | None) -> None:
    E, labels = batch_for(scope)
    past = torch.zeros(len(E), dtype=torch.bool)
    past[[1, 5]] = True
    rows = torch.tensor([6, 0, 3])
    terms = module(name, scope).per_anchor(E, labels, rows=rows, from_memory=past)
    expected = getattr(losses, name)(table(name, scope, E, labels, rows=rows, from_memory=past))
    torch.testing.assert_close(terms.total, expected.total, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ignored", [-100, 12345, 2**60])
@every_case
def test_rows_with_the_ignored_label_take_no_part(name: str, scope: str | None, ignored: int) -> None:
    E, labels = batch_for(scope)
    extra = torch.nn.functional.normalize(torch.randn(4, E.shape[1], dtype=torch.float64), dim=1)
    where = 2
    with_ignored = torch.cat([E[:where], extra, E[where:]]).requires_grad_()
    all_labels = torch.cat([labels[:where], torch.full((4,), ignored), labels[where:]])
    value = module(name, scope, ignore_index=ignored)(with_ignored, all_labels)
    torch.testing.assert_close(value, module(name, scope)(E, labels), rtol=1e-10, atol=1e-12)
    value.backward()
    assert (with_ignored.grad[where : where + 4] == 0).all()


def test_ignored_rows_may_hold_anything_but_other_rows_may_not_move() -> None:
    """`rows` and `past` are still given in rows of the whole batch."""
    E, labels = batch_for("class_pair")
    all_rows = torch.cat([torch.ones(2, E.shape[1], dtype=torch.float64), E])
    all_labels = torch.cat([torch.full((2,), -1), labels])
    past = torch.zeros(len(E), dtype=torch.bool)
    past[3] = True
    rows = torch.tensor([7, 1])
    loss = EmbeddingExpansion(MultiSimilarityLoss(ignore_index=-1))
    given = loss(all_rows, all_labels, rows=rows + 2, from_memory=torch.cat([torch.zeros(2, dtype=torch.bool), past]))
    expected = EmbeddingExpansion(MultiSimilarityLoss())(E, labels, rows=rows, from_memory=past)
    torch.testing.assert_close(given, expected)


@every_case
def test_statistics_are_there_on_request_detached_and_shares(name: str, scope: str | None) -> None:
    E, labels = batch_for(scope)
    loss = module(name, scope, statistics=True)
    value = loss(E.requires_grad_(), labels)
    assert value.requires_grad
    assert set(loss.last_statistics) == {"active_share"} | (set() if scope is None else {"synthetic_share"})
    for share in loss.last_statistics.values():
        assert share.shape == ()
        assert not share.requires_grad
        assert 0 <= share <= 1
    torch.testing.assert_close(value, module(name, scope)(E, labels))


def test_the_share_of_active_terms_goes_from_none_to_all() -> None:
    E, labels = batch_for("class_pair")
    for name in ("triplet", "hphn_triplet"):
        for scope in (None, "class_pair"):
            for margin, share in ((-10.0, 0.0), (10.0, 1.0)):
                loss = module(name, scope, margin=margin, statistics=True)
                loss(E, labels)
                assert loss.last_statistics["active_share"] == share


def test_the_share_of_synthetic_points_counts_the_winners() -> None:
    E = torch.tensor([[1, 1, 0.1], [1, -1, 0.1], [1, 0.1, 1], [1, 0.1, -1]], dtype=torch.float64)
    for scope in ("class_pair", "anchor", "negative"):  # the middles of the two classes nearly meet
        for n, share in ((0, 0.0), (1, 0.5 if scope == "negative" else 1.0)):
            loss = EmbeddingExpansion(MultiSimilarityLoss(), n=n, scope=scope, statistics=True)
            loss(E, [0, 0, 1, 1])
            assert loss.last_statistics["synthetic_share"] == share


def test_options_of_the_wrapped_loss_are_the_defaults_of_the_expansion() -> None:
    E, labels = batch_for("class_pair", unit=False)
    inner = MultiSimilarityLoss(normalize=False, reduction="none")
    assert isinstance(EmbeddingExpansion(inner)(E, labels), Terms)
    assert EmbeddingExpansion(inner, reduction="mean")(E, labels).shape == ()
    as_they_are = EmbeddingExpansion(inner, reduction="mean")(E, labels)
    normalised = EmbeddingExpansion(inner, reduction="mean", normalize=True)(E, labels)
    assert abs(as_they_are - normalised) > 1e-6


@every_case
def test_a_loss_can_be_copied_printed_moved_and_saved(name: str, scope: str | None) -> None:
    E, labels = batch_for(scope)
    loss = module(name, scope, **oracles.OTHERS[name])
    expected = loss(E, labels)
    again = copy.deepcopy(loss).to(torch.float64)
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(E, labels), expected)
    text = repr(loss)
    assert LOSSES[name].__name__ in text
    for key, value in oracles.OTHERS[name].items():
        assert f"{key}={value!r}" in text


@every_scope
def test_a_training_step_moves_the_rows_of_a_class_together(scope: str | None) -> None:
    E, labels = batch_for(scope, seed=3, d=8)
    E = E.clone().requires_grad_()
    loss = module("multi_similarity", scope)
    optimizer = torch.optim.SGD([E], lr=0.5)
    first = loss(E, labels).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss(E, labels).backward()
        optimizer.step()
    assert loss(E, labels).item() < first / 2
