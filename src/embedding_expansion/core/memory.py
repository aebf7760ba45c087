"""Cross-batch memory: a pair loss that also compares a batch with the embeddings of earlier batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_whole
from embedding_expansion.core.batch import Batch, Inputs, prepared, widened
from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.inputs import validates
from embedding_expansion.core.numbers import read, remember
from embedding_expansion.core.pair_loss import PairLoss, WrappedLoss
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.proxy_loss import ProxyLoss
from embedding_expansion.core.synthetic_samples import SyntheticSamples
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput, InvalidType


class CrossBatchMemory(WrappedLoss):
    """Adds a queue of earlier embeddings to a pair loss. With expansion they are also ends of segments.

    Embeddings of the queue are positives and negatives, but not anchors, and they are constants. With expansion, a
    synthetic point on the anchor's side of a class pair has at least one end in the batch. The loss compares a batch
    with the queue and then, in training mode only, adds the batch to the queue, where it replaces the oldest
    embeddings.

    The state dict holds the queue, its labels and its counters. The queue takes `size` x (`embedding_size` x 4 + 8)
    bytes, and the table of similarities has b x (b + size) entries. With expansion, a class with k embeddings has
    k (k - 1) / 2 segments; if the queue holds many embeddings of each class, limit the segments with `max_segments`.

    Args:
        loss: a pair loss, or an `EmbeddingExpansion` of one. Losses on proxies are refused, because a proxy already
            represents all images of its class. For an expansion with scope "anchor" the size must be even, because
            rows are paired.
        embedding_size: dimensions of the embeddings.
        size: the number of embeddings in the queue.
        start: the number of batches after which the loss starts to compare with the queue. The queue fills from the
            first batch.
        **options: as in `PairLoss`; by default the options of the given loss. `rows` and `indices_tuple` of a call
            refer to rows of the batch; they do not restrict the pairs with the queue or, with expansion, the columns of
            its classes.

    Raises:
        InvalidInput, InvalidType: if an option or a batch cannot be used, or if `from_memory` or `reference` is given.

    On several ranks use `DistributedLoss(CrossBatchMemory(loss, ...))`. Every rank adds the embeddings of all ranks in
    the order of the ranks, so that all ranks hold the same queue.

    Source: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020, algorithm 1. Differs from the source:
    one loss with one mean compares a batch with itself and the queue, instead of the sum of two losses; and a batch
    enters the queue after its loss is computed, not before.

    Example:
        >>> from embedding_expansion import ContrastiveLoss
        >>> memory = CrossBatchMemory(EmbeddingExpansion(ContrastiveLoss()), embedding_size=2, size=8)
        >>> for _ in range(3):
        ...     value = memory(torch.eye(2).repeat(2, 1), [0, 1, 0, 1])
        >>> int(memory.entered), memory.queue()[1].tolist()
        (12, [0, 1, 0, 1, 0, 1, 0, 1])
    """

    not_expandable = "expand the loss inside it, CrossBatchMemory(EmbeddingExpansion(loss), ...)"
    rows: Tensor
    labels: Tensor
    entered: Tensor
    batches: Tensor

    @validates
    def __init__(
        self, loss: PairLoss, embedding_size: int, size: int = 1024, start: int = 0, **options: Unpack[Options]
    ) -> None:
        if isinstance(loss, CrossBatchMemory) or not isinstance(loss, PairLoss):
            raise InvalidType(
                f"loss is a {type(loss).__name__}; pass one of this package's pair losses, plain or expanded; on "
                "several ranks use DistributedLoss(CrossBatchMemory(loss, ...))"
            )
        expansion = loss.expansion if isinstance(loss, EmbeddingExpansion) else None
        inner = loss.loss if isinstance(loss, EmbeddingExpansion) else loss
        if isinstance(inner, ProxyLoss):
            raise InvalidInput(
                f"{type(inner).__name__} compares with proxies of all classes and takes no memory; leave it out"
            )
        if isinstance(loss, SyntheticSamples):
            raise InvalidInput("SyntheticSamples takes no memory; use EmbeddingExpansion, or leave the memory out")
        if loss.indivisible:
            raise InvalidInput(f"CrossBatchMemory cannot wrap this loss: {loss.indivisible}")
        super().__init__(loss, **options)
        dimensions, length = as_whole(embedding_size, "embedding_size", least=1), as_whole(size, "size", least=1)
        if expansion is not None and expansion.scope == "anchor" and length % 2:
            raise InvalidInput(f"size is {length}, but anchor scope pairs the rows of the queue; pass an even number")
        self.start = as_whole(start, "start", least=0)
        self.register_buffer("rows", torch.zeros(length, dimensions))
        self.register_buffer("labels", torch.zeros(length, dtype=torch.int64))
        self.register_buffer("entered", torch.zeros((), dtype=torch.int64))  # total number of embeddings
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def queue(self) -> tuple[Float[Tensor, "k d"], Int[Tensor, " k"]]:
        """The embeddings in the queue, and their labels."""
        there = min(self._count(self.entered), len(self.labels))
        labels = self.labels[:there]
        if not torch.compiler.is_compiling():
            remember(labels, read(self.labels)[:there])
        return self.rows[:there], labels

    @staticmethod
    def _count(counter: Int[Tensor, ""]) -> int:
        return int(counter) if torch.compiler.is_compiling() else read(counter)[0]

    def with_reference(self, inputs: Inputs) -> Inputs:
        """The arguments; raises InvalidInput if they hold a reference."""
        if inputs.reference is not None:
            raise InvalidInput("reference is given to a CrossBatchMemory, which compares with its queue; leave it out")
        return inputs

    def prepared(self, inputs: Inputs) -> Batch:
        """Makes the batch with normalised rows, followed by the queue, whose rows are marked as from memory."""
        inputs = inputs.prepared(self.normalize, check=self.check_finite)
        embeddings, labels = inputs.embeddings, inputs.labels
        if inputs.from_memory is not None:
            raise InvalidInput("from_memory is given to a CrossBatchMemory, which has its own queue; leave it out")
        if embeddings.shape[1] != self.rows.shape[1]:
            raise InvalidInput(
                f"embeddings has {embeddings.shape[1]} dimensions, but embedding_size is {self.rows.shape[1]}; "
                f"pass embedding_size={embeddings.shape[1]} when the memory is made"
            )
        old, old_labels = self.queue()
        if self._count(self.batches) < self.start or len(old_labels) == 0:
            return replace(Batch.of(inputs), check=self.check_finite)
        rows, (old, _) = widened(embeddings), prepared(widened(old), self.normalize, check=False)
        b, whole = len(labels), torch.cat([labels, old_labels])
        from_memory = torch.arange(len(whole), device=labels.device) >= b
        if not torch.compiler.is_compiling():
            remember(whole, read(labels) + read(old_labels))
            remember(from_memory, [row >= b for row in range(len(whole))])
        rows, labels = torch.cat([rows, old.to(rows.dtype)]), whole
        chosen = None if inputs.chosen is None else replace(inputs.chosen, reach=len(inputs.labels))
        inputs = replace(inputs, embeddings=rows, labels=labels, from_memory=from_memory, chosen=chosen, unit=False)
        return replace(Batch.of(inputs), check=self.check_finite)

    def terms_of(self, batch: Batch, across: Callable[[Tensor], Tensor] | None = None) -> Terms:
        """Runs both steps, then adds the batch to the queue in training mode."""
        terms = super().terms_of(batch, across)
        if self.training:
            if batch.from_memory is None:
                b = len(batch.labels)
            elif torch.compiler.is_compiling():
                b = int((~batch.from_memory).sum())
            else:
                b = read(batch.from_memory).count(False)
            self._enter(batch.embeddings[:b].detach(), batch.labels, b)
        return terms

    def _enter(self, rows: Float[Tensor, "b d"], labels: Int[Tensor, " k"], b: int) -> None:
        """Adds the first b rows, which have the first b of the labels."""
        size = len(self.labels)
        rows, newest = rows[-size:], labels[:b][-size:]
        place = (self.entered + torch.arange(len(newest), device=labels.device)) % size
        known = None if torch.compiler.is_compiling() else (read(self.entered)[0], read(self.batches)[0])
        queued = [] if known is None else list(read(self.labels))
        self.rows[place], self.labels[place] = rows.to(self.rows.dtype), newest
        self.entered += len(newest)
        self.batches += 1
        if known is not None:
            for k, label in enumerate(read(labels)[:b][-size:]):
                queued[(known[0] + k) % size] = label
            remember(self.labels, queued)
            remember(self.entered, [known[0] + len(newest)])
            remember(self.batches, [known[1] + 1])

    def extra_repr(self) -> str:
        """The values of embedding_size, size and start."""
        return f"embedding_size={self.rows.shape[1]}, size={len(self.labels)}, start={self.start}"
