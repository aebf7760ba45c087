"""A loss in blocks of anchors: the value and gradient of the whole batch, with the memory of one block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.terms import Terms

if TYPE_CHECKING:
    from embedding_expansion.core.pair_loss import PairLoss


def terms_in_blocks(
    loss: PairLoss, batch: Batch, chunk: int, across: Callable[[Tensor], Tensor] | None = None
) -> tuple[Terms, Tensor | None]:
    """What each anchor adds, computed for `chunk` anchors at a time and again in the backward pass.

    Equal to the whole batch's, but where pairs of points are exactly as hard as others: there a block may pass the
    gradient of another winner. Anchors of a class come together, since expansion looks at their class once a block.
    `across` sums a batch-wide statistic over processes. Also gives the mean of the blocks' shares of synthetic points.
    """
    order = torch.argsort(batch.labels[batch.anchors], stable=True)
    blocks = torch.split(order, chunk)

    # Compiled, blocks that are read twice cannot be computed again: torch 2.15 does not partition such a graph.
    keep = torch.compiler.is_compiling() and loss.has_statistic

    def of_block(function: Callable[[Batch], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        def run(embeddings: Tensor, gallery: Tensor, block: Tensor) -> tuple[Tensor, ...]:
            gallery = gallery if batch.has_reference else embeddings
            part = replace(batch, embeddings=embeddings, gallery=gallery, anchors=batch.anchors[block], every_row=False)
            return function(part)

        given = batch.embeddings, batch.gallery
        if keep:
            return [run(*given, block) for block in blocks]
        return [checkpoint(run, *given, block, use_reentrant=False) for block in blocks]

    def statistics(part: Batch) -> tuple[Tensor, ...]:
        found = loss.batch_statistic(loss.pairs(part)[0])
        return () if found is None else (found,)

    statistic = None
    if loss.has_statistic:
        with nullcontext() if loss.miner is None else _draws_kept(batch.embeddings.device):
            statistic = torch.stack([found for (found,) in of_block(statistics)]).sum(dim=0)
        statistic = statistic if across is None else across(statistic)

    def terms(part: Batch) -> tuple[Tensor, ...]:
        pairs, labels = loss.pairs(part)
        found = loss.terms(pairs, labels, statistic)
        share = () if pairs.synthetic_share is None else (pairs.synthetic_share,)
        return found.total, found.weight, *share

    parts = of_block(terms)
    back = torch.argsort(order)
    total, weight = (torch.cat([part[k] for part in parts], dim=1)[:, back] for k in (0, 1))
    shares = [share for part in parts for share in part[2:]]
    return Terms(total, weight), torch.stack(shares).mean() if shares else None


def _draws_kept(device: torch.device) -> AbstractContextManager[None]:
    """After it random draws are what they would have been: a miner draws the same for the statistic and the terms."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
