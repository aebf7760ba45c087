"""What a loss gives for a table of similarities, and the few readings of a table that losses share.

Notation: s is a similarity of the table, d^2 = 2 - 2s the squared distance it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.pairs import Pairs

SMALLEST_SQUARE = 1e-12  # a squared distance below has no gradient: the square root's is infinite at 0
NOTHING = -1e30  # the logarithm of an empty sum: finite, so that its gradient is 0 and not NaN


@dataclass(frozen=True)
class Terms:
    """What each anchor adds to a loss, and how much it weighs: t means, each over its own anchors or pairs.

    A weight of 0 implies a total of 0. Weights carry no gradient.
    """

    total: Float[Tensor, "t a"]
    weight: Float[Tensor, "t a"]

    def mean(self) -> Float[Tensor, ""]:
        """The value of the loss: the sum over t of total.sum() / weight.sum(), 0 where nothing weighs.

        Example:
            >>> Terms(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[3.0, 1.0], [0.0, 0.0]])).mean()
            tensor(0.5000)
        """
        weight = self.weight.sum(dim=1)
        share = torch.where(weight > 0, 1 / weight, 0)
        return (self.total.sum(dim=1) * share).sum()

    def active_share(self) -> Float[Tensor, ""]:
        """The share of the anchors that weigh whose total is above 0, without gradient."""
        counts = self.weight.detach() > 0
        return ((self.total.detach() > 0) & counts).sum() / counts.sum().clamp(min=1)


def negatives_of_anchors(pairs: Pairs) -> tuple[Float[Tensor, "a m"], Bool[Tensor, "a m"]]:
    """The anchors' rows of the negatives, without those that only partners read."""
    if pairs.partner is None:  # there are no such rows
        return pairs.negative, pairs.negative_mask
    a = len(pairs.positive)
    return pairs.negative[:a], pairs.negative_mask[:a]


def positive_pairs(pairs: Pairs) -> Float[Tensor, "1 a"]:
    """The weight of a mean over positive pairs: how many each anchor has."""
    return pairs.positive_mask.sum(dim=1).to(pairs.positive.dtype)[None]


def squared_distance(similarity: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """d^2 = 2 - 2s, which rounding may not make negative."""
    return (2 - 2 * similarity).clamp(min=0)


def distance(similarity: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
    """The distance, 1e-6 at the least, where its gradient is cut off.

    Read off a similarity, it is exact to about 3e-4 in float32 (1e-8 in float64) where points nearly coincide.
    """
    return (2 - 2 * similarity).clamp(min=SMALLEST_SQUARE).sqrt()


def masked_sum(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Float[Tensor, " a"]:
    """Row by row over the unmasked entries."""
    return torch.where(mask, values, 0).sum(dim=1)


def masked_logsumexp(values: Float[Tensor, "a k"], mask: Bool[Tensor, "a k"]) -> Float[Tensor, " a"]:
    """Row by row over the unmasked entries; a large negative number where there are none."""
    return logsumexp(torch.where(mask, values, NOTHING))


def logsumexp(values: Float[Tensor, "a k"]) -> Float[Tensor, " a"]:
    """Row by row. Compiled, torch's own asks whether there is an entry at all, which only the batch tells."""
    if not torch.compiler.is_compiling():
        return values.logsumexp(dim=1)
    values = with_a_column(values, NOTHING)
    most = values.detach().amax(dim=1, keepdim=True)
    return (values - most).exp().sum(dim=1).log() + most[:, 0]


def with_a_column(values: Float[Tensor, "a k"], entry: float) -> Float[Tensor, "a m"]:
    """Compiled, one more column: a batch of no rows has none, and over none there is no maximum. Else as they are."""
    return functional.pad(values, (0, 1), value=entry) if torch.compiler.is_compiling() else values
