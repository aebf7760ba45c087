"""Interpolation without mining equals the plain loss of the batch with the points of `synthesize` written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from embedding_expansion import CrossBatchMemory, EmbeddingExpansion, SyntheticSamples, TripletLoss, synthesize
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import InvalidInput, InvalidType

from .batches import UNEQUAL, batch
from .proxies import NAMES as PROXY_NAMES
from .proxies import numbered_batch, proxy_loss


def any_loss(name: str, **options: Any) -> PairLoss:
    return proxy_loss(name, **options) if name in PROXY_NAMES else LOSSES[name](**options)


def with_gradient(loss: PairLoss, rows: Tensor, labels: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    rows = rows.clone().requires_grad_()
    value = loss(rows, labels, **given)
    return value.detach(), torch.autograd.grad(value, rows)[0]


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("normalize_synthetic", [True, False])
@pytest.mark.parametrize("name", [*LOSSES, *PROXY_NAMES])
def test_the_value_and_gradient_are_those_of_the_batch_written_out(
    name: str, normalize_synthetic: bool, chunk: int | None
) -> None:
    E, labels = numbered_batch(seed=3)
    E = E / E.norm(dim=1, keepdim=True)
    loss = SyntheticSamples(any_loss(name, normalize=False), 2, normalize_synthetic, chunk=chunk)
    value, gradient = with_gradient(loss, E, labels)
    rows = E.clone().requires_grad_()
    points, of_points = synthesize(rows, labels, 2, normalize_synthetic=normalize_synthetic)
    expected = any_loss(name, normalize=False)(torch.cat([rows, points]), torch.cat([labels, of_points]))
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, rows)[0], rtol=1e-7, atol=1e-9)


def test_points_belong_to_their_first_end_so_that_parts_of_the_anchors_add_up() -> None:
    E, labels = batch(UNEQUAL)
    loss = SyntheticSamples(TripletLoss(), n=3)
    whole = loss.per_anchor(E, labels)
    parts = [loss.per_anchor(E, labels, rows=rows) for rows in torch.arange(len(E)).split(4)]
    for of in ("total", "weight"):
        torch.testing.assert_close(sum(getattr(part, of).sum() for part in parts), getattr(whole, of).sum())


def test_without_points_it_is_the_plain_loss() -> None:
    E, labels = batch(UNEQUAL)
    assert SyntheticSamples(TripletLoss(), n=0)(E, labels) == TripletLoss()(E, labels)
    assert SyntheticSamples(TripletLoss(), n=1)(E, labels) != TripletLoss()(E, labels)


def test_what_it_cannot_do_is_told() -> None:
    E, labels = batch(UNEQUAL)
    loss = SyntheticSamples(TripletLoss())
    with pytest.raises(InvalidInput, match="takes no memory"):
        CrossBatchMemory(loss, 4)
    with pytest.raises(InvalidInput, match="takes no memory"):
        loss(E, labels, from_memory=torch.arange(len(E)) > 5)
    with pytest.raises(InvalidInput, match="indices_tuple is given"):
        loss(E, labels, tuple(torch.tensor([k]) for k in (0, 1, 2)))
    with pytest.raises(InvalidInput, match="cannot be expanded: its batch holds the synthetic points"):
        EmbeddingExpansion(loss)
    for wrong in (EmbeddingExpansion(TripletLoss()), torch.nn.Identity()):
        with pytest.raises(InvalidType, match="pass one of this package's plain pair losses"):
            SyntheticSamples(wrong)  # type: ignore[arg-type]
