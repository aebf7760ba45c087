"""Proxy Synthesis: mixed embeddings with mixed proxies, each a class of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_number, as_share, validates
from embedding_expansion.core.proxy_loss import ProxyLoss
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.rows import next_of_other_class
from embedding_expansion.generation.tables import rows_of


class ProxySynthesis(Method, name="proxy_synthesis"):
    """Proxy Synthesis: a loss on proxies of the batch, and of mixtures of it that are classes of their own.

    Each embedding is mixed with the next one of another class in the batch, x~ = l x_i + (1 - l) x_j, and their
    proxies with the same l ~ Beta(alpha, alpha), one number for the whole batch. Mixture i has the mixed proxy i. The
    gradient passes to both embeddings and both proxies.

    Args:
        loss: a loss on one proxy per class.
        alpha: of the beta distribution, above 0.
        ratio: mixtures as a share of the batch; 0 is the loss alone.

    Source: Gu, Ko & Kim, "Proxy Synthesis: Learning with Synthetic Classes for Deep Metric Learning", AAAI 2021, and
    its program. Differs from the source: the batch need not be arranged so that neighbours differ in class.
    """

    loss: ProxyLoss

    @validates
    def __init__(self, loss: ProxyLoss, alpha: float = 0.4, ratio: float = 1.0) -> None:
        super().__init__(checked_proxy_loss(loss))
        self.alpha, self.ratio = as_number(alpha, "alpha", least=1e-3), as_share(ratio, "ratio")

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The loss of the batch and its mixtures."""
        rows, proxies = rows_of(self.loss, embeddings), rows_of(self.loss, self.loss.proxies)
        first, second = (each[: int(self.ratio * len(labels))] for each in next_of_other_class(labels))
        mixing = torch.distributions.Beta(self.alpha, self.alpha).sample().to(rows)
        mixed = mixing * rows[first] + (1 - mixing) * rows[second]
        of_mixed = mixing * proxies[labels[first]] + (1 - mixing) * proxies[labels[second]]
        own = len(proxies) + torch.arange(len(mixed), device=labels.device)
        loss = self.loss.with_proxies(torch.cat([proxies, of_mixed]))
        value = loss(torch.cat([rows, mixed]), torch.cat([labels, own]))
        return {"metric": Objective(value, (NETWORK, "loss"))}


def checked_proxy_loss(loss: ProxyLoss) -> ProxyLoss:
    """Returns a loss on one proxy per class.

    Raises:
        InvalidType: it is no loss on proxies.
        InvalidInput: it has several proxies per class.
    """
    if not isinstance(loss, ProxyLoss):
        raise InvalidType(f"loss is a {type(loss).__name__}; pass a loss on proxies, such as ProxyAnchorLoss")
    if loss.per_class != 1:
        raise InvalidInput(f"{type(loss).__name__} has {loss.per_class} proxies per class; pass a loss with one")
    return loss
