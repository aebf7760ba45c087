"""The module that expands any pair loss."""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Int
from torch import Tensor, nn

from embedding_expansion.core.adapters import adapter_of
from embedding_expansion.core.balance import checked_balance
from embedding_expansion.core.batch import Batch
from embedding_expansion.core.classes import class_of_row
from embedding_expansion.core.inputs import validates
from embedding_expansion.core.mining import Expansion
from embedding_expansion.core.pair_loss import PairLoss, WrappedLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.forms import DEFAULT, DEFAULT_N, Balance, Scope


class EmbeddingExpansion(WrappedLoss):
    """A pair loss whose negatives are the hardest pairs of original and synthetic points of each pair of classes.

    Args:
        loss: an instance of one of the pair losses, or a loss of pytorch-metric-learning;
            docs/from-pytorch-metric-learning.md lists the supported ones. The losses of sentence-transformers take
            texts; use `ExpandedBatchLoss` for them.
        n: synthetic points per pair of a class, a whole number. 0 is mining without synthetic points. `math.inf` is the
            whole arc between the pair, computed exactly.
        scope: "class_pair" is the formula of the paper, "anchor" that of the authors' released program; "negative"
            expands only the other class, so that the anchor itself is compared with its hardest point; see `expand`.
        normalize_synthetic: L2-normalise the synthetic points.
        max_segments: the largest number of pairs of a class to expand; see `expand`.
        balance: reduce the pull between positives where it would collapse the embeddings. The gradient of the
            positives is multiplied by a number lambda from 0 to 1, one for each batch: the ratio of push and pull in
            the expanded table, divided by that in the plain table of the same batch, or by 1 if that is above 1. The
            value of the loss is unchanged. True measures push and pull by the similarities alone; "sphere" also takes
            into account how a contraction moves points of the unit sphere. The plain table is computed as well, from
            the same inner products. torch.compile breaks its graph at a balanced loss, which runs uncompiled.
        selective: a positive passes no gradient where a negative of its anchor is more similar than it. Excludes
            `balance`.
        **options: normalize, reduction, ignore_index, check_finite, miner, chunk and statistics, as in `PairLoss`; by
            default the options of the given loss.

    Raises:
        InvalidInput, InvalidType, UnknownName: if an option or a batch cannot be used, if a second derivative is
            requested for an infinite n, or if a loss on inner products is balanced without unit vectors.

    Source: Ko & Gu, "Embedding Expansion: Augmentation in Embedding Space for Deep Metric Learning", CVPR 2020. Differs
    from the source: see `expand`. Infinite n: the optimum is that of Vasudeva et al., "LoOp: Looking for Optimal Hard
    Negative Embeddings for Deep Metric Learning", ICCV 2021.

    Example:
        >>> from embedding_expansion import TripletLoss
        >>> embeddings = torch.tensor([[0.6, 0.8, 0.0], [0.6, -0.8, 0.0], [0.8, 0.0, 0.6], [0.8, 0.3, 0.9]])
        >>> losses = (EmbeddingExpansion(TripletLoss(margin=0.2), n=n) for n in (0, 2, float("inf")))
        >>> [round(loss(embeddings, [0, 0, 1, 1]).item(), 3) for loss in losses]  # n raises the loss
        [0.96, 1.111, 1.18]
    """

    @validates
    def __init__(
        self,
        loss: nn.Module,
        n: int | float = DEFAULT_N,
        scope: Scope = DEFAULT.scope,
        normalize_synthetic: bool = True,
        max_segments: int | None = None,
        *,
        balance: Balance = DEFAULT.balance,
        selective: bool = DEFAULT.selective,
        **options: Unpack[Options],
    ) -> None:
        if isinstance(loss, type):
            raise InvalidType(f"loss is the class {loss.__name__}; pass an instance, {loss.__name__}()")
        adapter = adapter_of(loss)
        if adapter is not None:
            loss = adapter.adapted(loss, scope, options)
        if isinstance(loss, EmbeddingExpansion) or not isinstance(loss, PairLoss):
            name = type(loss).__name__
            article = "an" if name[0] in "AEIOU" else "a"
            raise InvalidType(
                f"loss is {article} {name}; pass one of this package's pair losses, e.g. TripletLoss(), or a loss of a "
                "library that is adapted"
            )
        if loss.not_expandable:
            raise InvalidInput(f"{type(loss).__name__} cannot be expanded: {loss.not_expandable}")
        expansion = Expansion.checked(n, scope, normalize_synthetic, loss.metric, max_segments)
        super().__init__(loss, **options)
        self.expansion, self.balance, self.selective = expansion, checked_balance(balance, selective), selective

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The table of a batch with the hardest pairs as negatives."""
        return self.loss.expanded(batch, self.expansion, statistics=statistics)

    def columns(self, batch: Batch) -> Int[Tensor, " g"]:
        """The column of `Pairs.negative` for each row of the gallery: the index of its class."""
        compiling = torch.compiler.is_compiling()
        return class_of_row(batch.gallery_labels) if compiling else batch.classes.of_row

    def extra_repr(self) -> str:
        """The values of n, scope and normalize_synthetic, and those of the other arguments that are not the default."""
        given = self.expansion
        others = {"max_segments": given.max_segments, "balance": self.balance, "selective": self.selective}
        rest = "".join(f", {name}={value!r}" for name, value in others.items() if value)
        return f"n={given.n}, scope={given.scope!r}, normalize_synthetic={given.normalize_synthetic}{rest}"
