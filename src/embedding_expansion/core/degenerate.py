"""The warning of a batch from which a loss can learn little."""

from __future__ import annotations

import warnings

import torch

from embedding_expansion.core.batch import Batch
from embedding_expansion.errors import DegenerateBatchWarning

SAMPLER = "sample several classes and at least 2 images of each, e.g. with ClassBalancedSampler"


def warn_if_degenerate(batch: Batch) -> None:
    """Warn of a batch that teaches little. The sentences are constant, so that a long run shows each once."""
    if torch.compiler.is_compiling():
        return
    reason = ""
    if batch.labels.shape[0] == 0 or (batch.past is not None and bool(batch.past.all())):
        reason = "the batch has no anchor, so the loss is 0"
    elif batch.has_reference:
        if not bool(torch.isin(batch.labels, batch.gallery_labels).any()):
            reason = "no class of the batch is in the reference, so there is no positive pair"
    elif batch.classes.size.shape[0] == batch.labels.shape[0]:
        reason = "no class of the batch has two images, so there is no positive pair and nothing is pulled together"
    elif batch.classes.size.shape[0] == 1:
        reason = "the batch is of one class, so there is no negative pair and nothing is pushed apart"
    if reason:
        warnings.warn(f"{reason}; {SAMPLER}", DegenerateBatchWarning, stacklevel=6)  # the line that calls the loss
