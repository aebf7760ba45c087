"""Tables of similarities that a method makes itself, and the value of a loss that reads them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.pairs import Metric, Pairs


def rows_of(loss: PairLoss, embeddings: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """The embeddings as the loss compares them, L2-normalised unless it does not normalise."""
    return functional.normalize(embeddings, dim=-1) if loss.normalize else embeddings


def similarity(left: Float[Tensor, "*#b d"], right: Float[Tensor, "*#b d"], metric: Metric) -> Float[Tensor, "*#b"]:
    """The similarity of every two rows that belong together, after broadcasting, as `Pairs` describes it."""
    if metric == "euclidean":
        return 1 - (left - right).square().sum(dim=-1) / 2
    return (left * right).sum(dim=-1)


def read(
    loss: PairLoss,
    positive: Float[Tensor, "a p"],
    negative: Float[Tensor, "a m"],
    negative_mask: Bool[Tensor, "a m"],
    *,
    per_class: bool = False,
) -> Tensor:
    """The value of a loss that reads this table, in which every positive counts."""
    there = torch.ones_like(positive, dtype=torch.bool)
    pairs = Pairs(positive, there, negative, negative_mask, None, per_class)
    given: dict[str, Any] = loss.parameters_of_function
    return type(loss).function(pairs, **given).mean()
