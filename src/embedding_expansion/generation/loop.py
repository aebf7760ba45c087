"""LoOp: a named setting of embedding expansion with infinitely many points, and the losses of its program."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.checks import as_number, validates
from embedding_expansion.core.expansion import expand
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.terms import distance, masked_logsumexp
from embedding_expansion.errors import InvalidInput
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.rows import two_by_two
from embedding_expansion.generation.tables import rows_of


class LoOp(Method, name="loop"):
    """LoOp: the negative of two pairs of images is the pair of nearest points of their arcs.

    The arcs and their nearest points are those of `EmbeddingExpansion(loss, n=math.inf)` in batches of two images of
    each class; the credit for that optimum is LoOp's. What differs are the losses, here those of its program. d is the
    distance of the images of a pair, D_ij the least distance of the arcs (or of the segments, if the loss does not
    normalise) of pairs i and j of different classes, s and S the similarities:

        triplet             mean of [d_i - D_ij + margin]_+, a random half of the pairs against the other half
        hphn_triplet        mean of [d_i - min over j of D_ij + margin]_+, or its soft margin
        lifted_structure    mean of [log sum over j of exp(-D_ij) + d_i + margin]_+
        n_pair              mean of log(1 + sum over j of exp(scale (S_ij - s_i))), of rows that are not normalised
        multi_similarity    mean of 1/alpha log(1 + exp(-alpha (s_i - base))) + 1/beta log(1 + sum over mined j of
                            exp(beta (S_ij - base))); j is mined if S_ij + mining > s_i

    Args:
        loss: a `TripletLoss`, `HPHNTripletLoss`, `LiftedStructureLoss`, `NPairLoss` (with normalize=False) or
            `MultiSimilarityLoss` (with alpha=2, beta=50 and base=0.4), whose parameters these forms read.
        mining: the threshold of multi-similarity.

    Source: Vasudeva et al., "LoOp: Looking for Optimal Hard Negative Embeddings for Deep Metric Learning", ICCV 2021,
    and its program. Differs from the source: the optimum is computed from inner products, and classes may have any even
    number of images. N-pair reads similarities, where the program has distances of the opposite meaning. The positive
    of multi-similarity always counts: the program leaves it out if no negative is nearly as similar.
    """

    @validates
    def __init__(self, loss: PairLoss, mining: float = -0.02) -> None:
        super().__init__(loss)
        if getattr(type(loss), "name", "") not in _FORMS:
            raise InvalidInput(f"loss is a {type(loss).__name__}; LoOp has forms of {', '.join(_FORMS)}")
        self.mining = as_number(mining, "mining")

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The loss of the pairs of the batch."""
        pairs = two_by_two(labels)
        of_class = labels[pairs[:, 0]]
        rows, numbers = rows_of(self.loss, embeddings)[pairs.flatten()], torch.arange(len(pairs), device=labels.device)
        table = expand(
            rows,
            numbers.repeat_interleave(2),
            math.inf,
            metric=self.loss.metric,
            normalize_synthetic=self.loss.normalize,
            partners=False,
        )
        # Both rows of a pair are anchors of the same table; the first one stands for the pair.
        form, others = _FORMS[type(self.loss).name], of_class[:, None] != of_class
        value = form(self, table.positive[::2, 0], table.negative[::2], others)
        return {"metric": Objective(value, (NETWORK, "loss"))}

    def _triplet(self, positive: Float[Tensor, " q"], negative: Float[Tensor, "q q"], others: Tensor) -> Tensor:
        order = torch.randperm(len(positive), device="cpu").to(positive.device)
        near, away = order[: len(order) // 2], order[len(order) // 2 : len(order) // 2 * 2]
        hinges = functional.relu(distance(positive[near]) - distance(negative[near, away]) + self._given["margin"])
        return _mean(hinges, others[near, away])

    def _hphn(self, positive: Float[Tensor, " q"], negative: Float[Tensor, "q q"], others: Tensor) -> Tensor:
        closest = negative.masked_fill(~others, -math.inf).max(dim=1).values
        gap = torch.where(others.any(dim=1), distance(positive) - distance(closest), 0)
        term = functional.softplus(gap) if self._given["soft_margin"] else functional.relu(gap + self._given["margin"])
        return _mean(term, others.any(dim=1))

    def _lifted(self, positive: Float[Tensor, " q"], negative: Float[Tensor, "q q"], others: Tensor) -> Tensor:
        against = masked_logsumexp(-distance(negative), others)
        return _mean(functional.relu(against + distance(positive) + self._given["margin"]), others.any(dim=1))

    def _n_pair(self, positive: Float[Tensor, " q"], negative: Float[Tensor, "q q"], others: Tensor) -> Tensor:
        scale = self._given["scale"]
        return _mean(functional.softplus(masked_logsumexp(scale * negative, others) - scale * positive), others.any(1))

    def _multi_similarity(self, positive: Float[Tensor, " q"], negative: Tensor, others: Bool[Tensor, "q q"]) -> Tensor:
        alpha, beta, base = (self._given[name] for name in ("alpha", "beta", "base"))
        mined = others & (negative + self.mining > positive[:, None])
        pull = functional.softplus(-alpha * (positive - base)) / alpha
        push = functional.softplus(masked_logsumexp(beta * (negative - base), mined)) / beta
        return _mean(pull + push, others.any(dim=1))

    @property
    def _given(self) -> dict[str, float]:
        return self.loss.parameters_of_function


def _mean(values: Float[Tensor, " q"], mask: Bool[Tensor, " q"]) -> Tensor:
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


_FORMS = {
    "multi_similarity": LoOp._multi_similarity,
    "triplet": LoOp._triplet,
    "hphn_triplet": LoOp._hphn,
    "lifted_structure": LoOp._lifted,
    "n_pair": LoOp._n_pair,
}
