"""The warning of a batch from which a loss can learn little."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from embedding_expansion.errors import DegenerateBatchWarning

SAMPLER = "sample several classes and at least 2 images of each, e.g. with ClassBalancedSampler"


def warn_if_degenerate(
    labels: Int[Tensor, " b"], past: Bool[Tensor, " b"] | None, reference: Int[Tensor, " g"] | None
) -> None:
    """Warn of a batch that teaches little. The sentences are constant, so that a long run shows each once."""
    if torch.compiler.is_compiling():
        return
    reason = ""
    if len(labels) == 0 or (past is not None and bool(past.all())):
        reason = "the batch has no anchor, so the loss is 0"
    elif reference is not None:
        if not bool(torch.isin(labels, reference).any()):
            reason = "no class of the batch is in the reference, so there is no positive pair"
    else:
        ordered = labels.sort().values
        same = ordered[1:] == ordered[:-1]
        if not bool(same.any()):
            reason = "no class of the batch has two images, so there is no positive pair and nothing is pulled together"
        elif bool(same.all()):
            reason = "the batch is of one class, so there is no negative pair and nothing is pushed apart"
    if reason:
        warnings.warn(f"{reason}; {SAMPLER}", DegenerateBatchWarning, stacklevel=6)  # the line that calls the loss
