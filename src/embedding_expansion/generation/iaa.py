"""IAA, intra-class adaptive augmentation: embeddings with the noise of their class join the batch."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_number, as_whole, validates
from embedding_expansion.core.inputs import check_classes
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.tables import rows_of


class IAA(Method, name="iaa"):
    """Intra-class adaptive augmentation: a loss of the batch and of copies that vary as their class does.

    A copy is f + sqrt(strength) s N(0, I), where s are the standard deviations of the channels in the class, over all
    embeddings of it so far. The gradient of a copy passes to its embedding.

    Args:
        loss: a loss that compares embeddings with each other.
        num_classes: the number of training classes.
        embedding_size: dimensions of the embeddings.
        copies: copies of each embedding; 0 is the loss alone.
        strength: lambda, 0 or more; the authors use 0.5 to 0.8.

    Source: Fu et al., "Intra-class Adaptive Augmentation with Neighbor Correction for Deep Metric Learning", IEEE
    Transactions on Multimedia 2022. Differs from the source: the deviations of a class are not corrected by those of
    its neighbours, and embeddings are those that the loss compares, which are L2-normalised.
    """

    mean: Tensor
    variance: Tensor
    entered: Tensor

    @validates
    def __init__(
        self, loss: PairLoss, num_classes: int, embedding_size: int, copies: int = 2, strength: float = 0.5
    ) -> None:
        super().__init__(loss)
        shape = (as_whole(num_classes, "num_classes", least=1), as_whole(embedding_size, "embedding_size", least=1))
        self.copies, self.strength = as_whole(copies, "copies", least=0), as_number(strength, "strength", least=0)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.zeros(shape))
        self.register_buffer("entered", torch.zeros(shape[0], 1))

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The loss of the batch and its copies."""
        check_classes(labels, len(self.entered), "num_classes of IAA")
        rows = rows_of(self.loss, embeddings)
        self._remember(rows.detach().to(self.mean.dtype), labels)
        deviation = math.sqrt(self.strength) * self.variance[labels].sqrt()
        copies = [rows + deviation * torch.randn_like(rows) for _ in range(self.copies)]
        value = self.loss(torch.cat([rows, *copies]), labels.repeat(1 + self.copies))
        return {"metric": Objective(value, (NETWORK, "loss"))}

    def _remember(self, rows: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> None:
        """Adds the batch to the mean and the variance of each class, as if all its embeddings were one sample."""
        count = torch.zeros_like(self.entered).index_add_(0, labels, torch.ones_like(rows[:, :1]))
        here = torch.zeros_like(self.mean).index_add_(0, labels, rows) / count.clamp(min=1)
        spread = torch.zeros_like(self.mean).index_add_(0, labels, (rows - here[labels]).square())
        total = (self.entered + count).clamp(min=1)
        share, apart = count / total, here - self.mean
        self.variance += share * (spread / count.clamp(min=1) - self.variance) + share * (1 - share) * apart.square()
        self.mean += share * apart
        self.entered += count
