"""Half precision: values and gradients stay finite, also where rows are equal or zero."""

from __future__ import annotations

import pytest
import torch

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES

from . import oracles
from .batches import batch_for


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(LOSSES))
def test_half_precision_keeps_values_and_gradients_finite(name: str, dtype: torch.dtype) -> None:
    E, labels = batch_for(None)
    plain = LOSSES[name]()
    for loss in [plain] if name in oracles.NOT_EXPANDABLE else [plain, EmbeddingExpansion(LOSSES[name](), n=2)]:
        for rows in (E.to(dtype), torch.cat([E[:1], E[:1], E[2:]]).to(dtype), torch.zeros_like(E).to(dtype)):
            leaf = rows.clone().requires_grad_()
            with torch.autocast("cpu", dtype):
                value = loss(leaf, labels)
            value.backward()
            assert value.isfinite()
            assert leaf.grad.isfinite().all()
