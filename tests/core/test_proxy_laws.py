"""Laws of losses on proxies: what may change nothing, what adds up, and what is refused."""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import PROXY_LOSSES, ArcFaceLoss, ProxyAnchorLoss, SoftTripleLoss
from embedding_expansion.errors import DegenerateBatchWarning, InvalidInput, InvalidType, UnknownName

from .batches import seeds
from .proxies import EXPANDABLE, NAMES, SCOPES, C, numbered_batch, per_class, proxy_loss, with_scope

every_case = pytest.mark.parametrize(("name", "scope"), SCOPES)
every_loss = pytest.mark.parametrize("name", NAMES)


def value_and_gradients(loss: torch.nn.Module, E: Tensor, labels: Tensor, **options: Any) -> list[Tensor]:
    E = E.detach().requires_grad_()
    value = loss(E, labels, **options)
    return [value.detach(), *torch.autograd.grad(value, [E, *loss.parameters()])]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@every_case
@given(seed=seeds)
def test_permuting_the_batch_changes_nothing(name: str, scope: str | None, seed: int) -> None:
    E, labels = numbered_batch(scope, seed)
    order = torch.randperm(len(labels) // 2)[:, None] * 2 + torch.arange(2)  # partners of anchor scope stay together
    order = order.flatten() if scope == "anchor" else torch.randperm(len(labels))
    loss = with_scope(proxy_loss(name), scope)
    value, gradient, of_proxies = value_and_gradients(loss, E, labels)
    permuted = value_and_gradients(loss, E[order], labels[order])
    assert_same(permuted, [value, gradient[order], of_proxies])


@every_case
@given(seed=seeds)
def test_renaming_the_classes_with_their_proxies_changes_nothing(name: str, scope: str | None, seed: int) -> None:
    E, labels = numbered_batch(scope, seed)
    loss = proxy_loss(name)
    expected = with_scope(loss, scope)(E, labels)
    names = torch.randperm(C)
    proxies = loss.proxies.data.view(C, per_class(name), -1)
    moved = torch.empty_like(proxies)
    moved[names] = proxies
    loss.proxies.data = moved.flatten(0, 1)
    torch.testing.assert_close(with_scope(loss, scope)(E, names[labels]), expected, rtol=1e-9, atol=1e-10)


@every_case
@given(seed=seeds, d=st.integers(2, 6))
def test_rotating_embeddings_and_proxies_together_changes_nothing(
    name: str, scope: str | None, seed: int, d: int
) -> None:
    E, labels = numbered_batch(scope, seed, d=d)
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    inner = proxy_loss(name, d)
    loss = with_scope(inner, scope)
    expected = loss(E, labels)
    inner.proxies.data = inner.proxies.data @ rotation
    torch.testing.assert_close(loss(E @ rotation, labels), expected, rtol=1e-9, atol=1e-9)


@every_case
def test_the_norms_of_embeddings_and_proxies_change_nothing(name: str, scope: str | None) -> None:
    E, labels = numbered_batch(scope)
    inner = proxy_loss(name)
    loss = with_scope(inner, scope)
    expected = loss(E, labels)
    inner.proxies.data *= torch.rand(len(inner.proxies), 1, dtype=torch.float64) + 0.5
    torch.testing.assert_close(loss(3 * E, labels), expected)


@every_case
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_blocks_of_anchors_give_the_whole_value_and_gradient(name: str, scope: str | None, chunk: int) -> None:
    E, labels = numbered_batch(scope)
    whole, blocks = (with_scope(proxy_loss(name, chunk=size), scope) for size in (None, chunk))
    assert_same(value_and_gradients(blocks, E, labels), value_and_gradients(whole, E, labels))


@every_case
@given(seed=seeds, block=st.integers(1, 5))
def test_blocks_of_rows_add_up_to_the_whole(name: str, scope: str | None, seed: int, block: int) -> None:
    E, labels = numbered_batch(scope, seed)
    loss = with_scope(proxy_loss(name), scope)
    whole = loss.per_anchor(E, labels)
    parts = [loss.per_anchor(E, labels, rows=rows) for rows in torch.arange(len(labels)).split(block)]
    weight = sum(part.weight.sum(1) for part in parts)
    value = sum((part.total.sum(1) / weight).sum() for part in parts)
    torch.testing.assert_close(value, whole.mean(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "scope"), [case for case in SCOPES if case[1] is not None])
@given(seed=seeds, n=st.integers(0, 4))
def test_every_expandable_loss_grows_with_the_hardness(name: str, scope: str, seed: int, n: int) -> None:
    E, labels = numbered_batch(scope, seed)
    none, some, more = (with_scope(proxy_loss(name), scope, k).per_anchor(E, labels) for k in (0, n, 2 * n + 1))
    assert (some.total >= none.total - 1e-9).all()
    assert (more.total >= some.total - 1e-9).all()


@pytest.mark.parametrize("name", EXPANDABLE)
def test_mining_is_never_easier_than_the_row_itself(name: str) -> None:
    if name == "proxy_anchor":
        return  # of several rows of a class mining keeps one, and its sum gets smaller
    E, labels = numbered_batch()
    plain, mined = (with_scope(proxy_loss(name), scope, 0).per_anchor(E, labels) for scope in (None, "class_pair"))
    assert (mined.total >= plain.total - 1e-9).all()
    assert (mined.total > plain.total + 1e-6).any()


@every_case
def test_ignored_rows_take_no_part(name: str, scope: str | None) -> None:
    E, labels = numbered_batch(scope)
    extra = torch.cat([E[:2], torch.ones(2, 4, dtype=torch.float64), E[2:]])
    ignored = torch.cat([labels[:2], torch.full((2,), -1), labels[2:]])
    given_ = with_scope(proxy_loss(name, ignore_index=-1), scope)(extra, ignored)
    torch.testing.assert_close(given_, with_scope(proxy_loss(name), scope)(E, labels))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "proxy_anchor"])
def test_past_rows_are_no_anchors(name: str) -> None:
    E, labels = numbered_batch(seed=3)
    past = torch.arange(len(labels)) % 3 == 0
    loss = proxy_loss(name)
    torch.testing.assert_close(loss(E, labels, from_memory=past), loss(E[~past], labels[~past]))


@pytest.mark.parametrize("name", [name for name in EXPANDABLE if name != "proxy_anchor"])
def test_past_rows_are_ends_of_segments(name: str) -> None:
    E, labels = numbered_batch(seed=3)
    past = torch.arange(len(labels)) % 3 == 0
    loss = with_scope(proxy_loss(name), "class_pair")
    assert loss(E, labels, from_memory=past) > loss(E[~past], labels[~past]) + 1e-6


def test_to_a_proxy_that_is_the_anchor_a_past_row_is_as_good_as_any() -> None:
    E, labels = numbered_batch(seed=3)
    past = torch.arange(len(labels)) % 3 == 0
    for scope in (None, "class_pair"):
        loss = with_scope(proxy_loss("proxy_anchor"), scope)
        torch.testing.assert_close(loss(E, labels, from_memory=past), loss(E, labels))


@every_loss
def test_an_empty_batch_warns_and_gives_zero(name: str) -> None:
    E = torch.zeros(0, 4, requires_grad=True)
    for scope in (None, "class_pair") if name in EXPANDABLE else (None,):
        with pytest.warns(DegenerateBatchWarning, match="no anchor"):
            value = with_scope(proxy_loss(name), scope)(E, [])
        assert value.item() == 0
        value.backward()


@every_loss
def test_a_single_image_a_class_is_nothing_to_warn_of(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert proxy_loss(name)(torch.eye(4), [0, 1, 3, 4]).isfinite()
        assert proxy_loss(name)(torch.eye(4), [2, 2, 2, 2]).isfinite()


@every_case
def test_half_precision_gives_the_loss_of_what_it_rounds_to(name: str, scope: str | None) -> None:
    E, labels = numbered_batch(scope)
    loss = with_scope(proxy_loss(name), scope).float()
    for dtype in (torch.float16, torch.bfloat16):
        half = E.to(dtype).requires_grad_()
        value = loss(half, labels)
        torch.testing.assert_close(value, loss(half.detach().float(), labels))
        value.backward()
        assert half.grad.dtype == dtype
        assert half.grad.isfinite().all()


@every_case
def test_a_loss_is_copied_and_saved_with_its_proxies(name: str, scope: str | None) -> None:
    E, labels = numbered_batch(scope)
    loss, other = (with_scope(proxy_loss(name, seed=seed), scope) for seed in (0, 1))
    assert abs(other(E, labels) - loss(E, labels)) > 1e-6
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(E, labels), loss(E, labels))
    assert torch.equal(copy.deepcopy(loss)(E, labels), loss(E, labels))


@every_case
def test_a_few_steps_move_the_proxies_and_lower_the_loss(name: str, scope: str | None) -> None:
    E, labels = numbered_batch(scope, seed=3, d=8)
    E.requires_grad_()
    inner = proxy_loss(name, 8)
    loss = with_scope(inner, scope)
    before, first = inner.proxies.detach().clone(), loss(E, labels).item()
    optimizer = torch.optim.Adam([E, *loss.parameters()], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss(E, labels).backward()
        optimizer.step()
    last = loss(E, labels).item()
    assert last < first - 0.5 * abs(first)
    moved = (inner.proxies - before).norm(dim=1) > 0.1
    assert moved.view(C, per_class(name)).any(dim=1).all()  # a sub-centre that is never the nearest stays where it is


# --- what is refused --------------------------------------------------------------------------------------------------


@every_loss
def test_labels_that_have_no_proxy_are_refused(name: str) -> None:
    for labels, said in (([0, 1, C], f"from 0 to {C}"), ([-1, 0, 1], "from -1 to 1")):
        with pytest.raises(InvalidInput, match=f"labels run {said}, but num_classes of .* is {C}; number the classes"):
            proxy_loss(name)(torch.randn(3, 4), labels)


@every_loss
def test_embeddings_of_other_dimensions_and_references_are_refused(name: str) -> None:
    loss = proxy_loss(name)
    with pytest.raises(InvalidInput, match=r"6 dimensions.*have 4; pass embedding_size=6"):
        loss(torch.randn(2, 6), [0, 1])
    E = torch.randn(2, 4)
    for options, said in (
        ({"reference": E, "reference_labels": [0, 1]}, "its own proxies"),
        ({"reference_labels": [0, 1]}, "reference is missing"),
    ):
        with pytest.raises(InvalidInput, match=said):
            loss(E, [0, 1], **options)


def test_what_no_proxies_can_be_made_of_is_refused() -> None:
    for arguments in ((1, 4), (5, 0), (-2, 4)):
        with pytest.raises(InvalidInput, match="pass a whole number of at least"):
            ArcFaceLoss(*arguments)
    for arguments in (("5", 4), (5, 4.5), (True, 4), (None, 4)):
        with pytest.raises(InvalidType, match="whole number"):
            ArcFaceLoss(*arguments)
    with pytest.raises(InvalidInput, match="centers_per_class is 0"):
        SoftTripleLoss(5, 4, centers_per_class=0)
    for tau in (-1.0, float("nan"), "much", True):
        with pytest.raises((InvalidInput, InvalidType), match="tau of SoftTripleLoss"):
            SoftTripleLoss(5, 4, tau=tau)
    with pytest.raises(UnknownName, match="did you mean 'margin'"):
        ProxyAnchorLoss(5, 4, margn=0.1)
    with pytest.raises(InvalidInput, match="above 0"):
        ProxyAnchorLoss(5, 4, alpha=0.0)


def test_what_cannot_be_expanded_says_why() -> None:
    assert set(PROXY_LOSSES) - set(EXPANDABLE) == {"soft_triple"}
    with pytest.raises(InvalidInput, match=r"SoftTripleLoss cannot be expanded: .*weighted sum over its centres"):
        EmbeddingExpansion(proxy_loss("soft_triple"))
    E, labels = numbered_batch("anchor")
    with pytest.raises(InvalidInput, match=re.escape("no partners; use scope='class_pair'")):
        EmbeddingExpansion(proxy_loss("proxy_anchor"), scope="anchor")(E, labels)
    with pytest.raises(InvalidInput, match="order the batch"):
        EmbeddingExpansion(proxy_loss("arcface"), scope="anchor")(E, labels.sort().values.roll(1))


# --- two processes ----------------------------------------------------------------------------------------------------
