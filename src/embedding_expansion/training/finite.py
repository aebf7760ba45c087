"""Whether numbers still are numbers: how a run notices that it has diverged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from embedding_expansion.errors import RunError


class NotFinite(RunError):
    """Weights that are, or lead to, NaN or infinity. A run that meets it says what it has kept."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no entry of any floating tensor is NaN or infinite."""
    found = [tensor.detach().isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    # One wait for the device, whatever the number of tensors; Adam counts its steps on the CPU.
    return not found or bool(torch.stack([finite.to(found[0].device) for finite in found]).all())


def check_embeddings(embeddings: Tensor) -> Tensor:
    """The embeddings themselves.

    Raises:
        NotFinite: one of them is NaN or infinite.
    """
    if not all_finite([embeddings]):
        raise NotFinite("the model's weights give embeddings that are NaN or infinite")
    return embeddings
