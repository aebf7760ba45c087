"""DVML, deep variational metric learning: an embedding plus what varies within its class."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from embedding_expansion.checks import as_number, as_whole, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.generation.method import NETWORK, Method, Objective

#: Weights of the divergence, the reconstruction, and the loss of z and of z_inv in the two phases.
FIRST, SECOND = (1.0, 1.0, 0.1, 1.0), (0.8, 1.0, 0.2, 0.8)


class DVML(Method, name="dvml"):
    """Deep variational metric learning: the loss of the embeddings, and of embeddings with drawn variation.

    The embedding z_inv is what a class shares. What varies within it is v ~ N(mu, sigma^2), where mu and log sigma^2
    are a linear map of the features h. A decoder reconstructs h from z = z_inv + v. With l1 to l4 of the phase:

        metric          l3 loss(z) + l4 loss(z_inv): trains the network and the map
        divergence      l1 KL(N(mu, sigma^2) | N(0, I)): trains the network and the map
        reconstruction  l2 |h - decoder(z)|^2: trains the decoder, and in the second phase also the network and the map,
                        with several draws of v

    Args:
        loss: a loss that compares embeddings with each other.
        width: dimensions of the features.
        embedding_size: dimensions of the embeddings.
        first_steps: steps of the first phase.
        draws: of v for the reconstruction in the second phase.
        weight: of everything but the loss of z_inv; 0 is the loss alone, with the weight l4.
        hidden: units of the hidden layer of the decoder.

    Source: Lin et al., "Deep Variational Metric Learning", ECCV 2018, from ports. Differs from the source: features are
    divided by their mean norm, and as the target of the decoder they are constants, so that a backbone does not shrink
    them. The divergence is summed over dimensions and averaged over the batch, like the squared distance.
    """

    steps: Tensor

    @validates
    def __init__(
        self,
        loss: PairLoss,
        width: int,
        embedding_size: int,
        first_steps: int = 100,
        draws: int = 20,
        weight: float = 1.0,
        hidden: int = 512,
    ) -> None:
        super().__init__(loss)
        size, units = as_whole(width, "width", least=1), as_whole(hidden, "hidden", least=1)
        dimensions = as_whole(embedding_size, "embedding_size", least=1)
        self.first_steps, self.draws = as_whole(first_steps, "first_steps", least=0), as_whole(draws, "draws", least=1)
        self.weight = as_number(weight, "weight", least=0)
        self.variation = nn.Linear(size, 2 * dimensions)
        self.decoder = nn.Sequential(nn.Linear(dimensions, units), nn.ReLU(), nn.Linear(units, size))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The three objectives of the current phase."""
        self.steps += 1
        is_first = int(self.steps) <= self.first_steps
        of_divergence, of_reconstruction, of_varied, of_plain = FIRST if is_first else SECOND
        scaled = features / features.detach().norm(dim=1).mean().clamp(min=1e-6)
        mean, log_variance = self.variation(scaled).chunk(2, dim=1)
        draws = 1 if is_first else self.draws
        noise = torch.randn(draws, *mean.shape, dtype=mean.dtype, device=mean.device)
        varied = embeddings + mean + (log_variance / 2).exp() * noise
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1).mean() / 2
        reconstruction = (self.decoder(varied) - scaled.detach()).square().sum(dim=2).mean()
        metric = of_plain * self.loss(embeddings, labels)
        if self.weight:
            metric = metric + self.weight * of_varied * self.loss(varied[0], labels)
        everything = (NETWORK, "variation", "decoder")
        return {
            "metric": Objective(metric, (NETWORK, "variation", "loss")),
            "divergence": Objective(self.weight * of_divergence * divergence, (NETWORK, "variation")),
            "reconstruction": Objective(
                self.weight * of_reconstruction * reconstruction, ("decoder",) if is_first else everything
            ),
        }
