"""Metrix: a loss of mixed embeddings, whose pairs are positive in part."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.checks import as_number, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.proxy_loss import ProxyLoss
from embedding_expansion.core.terms import distance, masked_logsumexp, squared_distance
from embedding_expansion.errors import InvalidInput
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.tables import rows_of

LEAST = 1e-6  # the least share of a mixture, as its logarithm must be finite


class Mixtures(NamedTuple):
    """The mixtures of each anchor: a anchors with k mixtures.

    Attributes:
        similarity: (a, k), the inner product of the anchor and the L2-normalised mixture.
        share: (a, k), the share of the positive in the mixture, which is how positive the pair is.
        mask: (a, k), which mixtures there are.
    """

    similarity: Tensor
    share: Tensor
    mask: Tensor


class Metrix(Method, name="metrix"):
    """Metrix on embeddings: a loss, and the same loss of mixtures with interpolated labels.

    Each anchor is compared with the mixtures v = l x + (1 - l) n, L2-normalised, of all its negatives n and either all
    its positives x, or itself; one of the two is drawn at each step. A mixture is a positive with the weight l ~
    Beta(alpha, alpha), and a negative with the weight 1 - l. With `proxy_anchor` the anchors are the proxies.

    Args:
        loss: a `MultiSimilarityLoss`, `ContrastiveLoss` or `ProxyAnchorLoss`.
        weight: of the loss of the mixtures; 0 is the loss alone.
        alpha: of the beta distribution, above 0.

    Source: Venkataramanan et al., "It Takes Two to Tango: Mixup for Deep Metric Learning", ICLR 2022, equations of the
    generic loss and its mixed form, on embeddings. Differs from the source: all mixtures of an anchor are used, each
    with a l of its own; those of the contrastive loss are averaged with their weights, as its pairs are.
    """

    @validates
    def __init__(self, loss: PairLoss, weight: float = 0.4, alpha: float = 2.0) -> None:
        super().__init__(loss)
        if getattr(type(loss), "name", "") not in _READ or not loss.normalize:
            raise InvalidInput(
                f"loss is a {type(loss).__name__}; pass a MultiSimilarityLoss, ContrastiveLoss or ProxyAnchorLoss of "
                "normalised embeddings"
            )
        self.weight, self.alpha = as_number(weight, "weight", least=0), as_number(alpha, "alpha", least=1e-3)

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The loss plus the weighted loss of the mixtures."""
        rows = rows_of(self.loss, embeddings)
        value: Tensor = self.loss(rows, labels)
        with_anchor = bool(torch.rand(()) < 0.5)
        if isinstance(self.loss, ProxyLoss):
            anchors = rows_of(self.loss, self.loss.proxies)
            same = torch.arange(len(anchors), device=labels.device)[:, None] == labels
            positive, negative = same, ~same & same.any(dim=1, keepdim=True)
        else:
            anchors, same = rows, labels[:, None] == labels
            positive, negative = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same
        if self.weight and bool(positive.any()) and bool(negative.any()):
            mixtures = self._mixtures(anchors, rows, positive, negative, with_anchor)
            value = value + self.weight * _READ[type(self.loss).name](mixtures, **self.loss.parameters_of_function)
        return {"metric": Objective(value, (NETWORK, "loss"))}

    def _mixtures(
        self,
        anchors: Float[Tensor, "a d"],
        rows: Float[Tensor, "b d"],
        positive: Bool[Tensor, "a b"],
        negative: Bool[Tensor, "a b"],
        with_anchor: bool,
    ) -> Mixtures:
        """The mixtures from inner products alone: no mixture is built in d dimensions."""
        of_anchors = anchors @ rows.T
        away, is_away = _listed(negative)
        to_away = of_anchors.gather(1, away)[:, None]
        if with_anchor:
            to_near, between = torch.ones_like(to_away[:, :, :1]), to_away
            mask = (is_away & positive.any(dim=1, keepdim=True))[:, None]
        else:
            near, is_near = _listed(positive)
            to_near, between = of_anchors.gather(1, near)[:, :, None], (rows @ rows.T)[near[:, :, None], away[:, None]]
            mask = is_near[:, :, None] & is_away[:, None]
        share = torch.distributions.Beta(self.alpha, self.alpha).sample(between.shape).to(rows)
        share = share.clamp(LEAST, 1 - LEAST)
        norm = (share.square() + (1 - share).square() + 2 * share * (1 - share) * between).clamp(min=1e-4).sqrt()
        similarity = (share * to_near + (1 - share) * to_away) / norm
        return Mixtures(*(each.flatten(1) for each in (similarity, share, mask.expand_as(share))))


def _listed(mask: Bool[Tensor, "a b"]) -> tuple[Int[Tensor, "a k"], Bool[Tensor, "a k"]]:
    """The columns that a mask has in each row, and which of these entries there are, as rows differ in number."""
    most = int(mask.sum(dim=1).max())
    there, columns = mask.to(torch.uint8).sort(dim=1, descending=True, stable=True)
    return columns[:, :most], there[:, :most].bool()


def _log_sum(exponent: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """log(1 + sum of weight exp(exponent)) of each anchor."""
    return functional.softplus(masked_logsumexp(exponent + weight.log(), mask))


def _multi_similarity(mixtures: Mixtures, alpha: float, beta: float, base: float) -> Tensor:
    similarity, share, mask = mixtures
    pull = _log_sum(-alpha * (similarity - base), share, mask) / alpha
    push = _log_sum(beta * (similarity - base), 1 - share, mask) / beta
    return _mean(pull + push, mask.any(dim=1))


def _proxy_anchor(mixtures: Mixtures, margin: float, alpha: float) -> Tensor:
    similarity, share, mask = mixtures
    pull = _log_sum(-alpha * (similarity - margin), share, mask)
    push = _log_sum(alpha * (similarity + margin), 1 - share, mask)
    return _mean(pull + push, mask.any(dim=1))


def _contrastive(mixtures: Mixtures, margin: float, squared: bool, average: str) -> Tensor:
    similarity, share, mask = mixtures
    pull = squared_distance(similarity) if squared else distance(similarity)
    push = functional.relu(margin - distance(similarity)) ** (2 if squared else 1)
    return _mean(pull, share * mask) + _mean(push, (1 - share) * mask)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=LEAST)


_READ: dict[str, Callable[..., Tensor]] = {
    "multi_similarity": _multi_similarity,
    "contrastive": _contrastive,
    "proxy_anchor": _proxy_anchor,
}
