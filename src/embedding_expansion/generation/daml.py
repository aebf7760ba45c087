"""DAML, deep adversarial metric learning: a generator makes negatives that the embedding must tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.checks import as_number, as_whole, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.tables import rows_of
from embedding_expansion.generation.triplets import checked, triplets_for


class DAML(Method, name="daml"):
    """Deep adversarial metric learning: the negatives of the loss are generated from triplets of features.

    n~ = G(a, p, n) is made of the features of an anchor, a positive and a negative; primes are embeddings, n~' that of
    n~ through the head of the network. After `plain_steps` steps of the loss alone, two objectives are trained at once:

        metric      1/2 of the loss of a', p' and n~': trains the network
        generator   mean |n~ - a|^2 + regularization mean |n~ - n|^2
                    + adversarial 1/2 mean [|a' - n~'|^2 - |a' - p'|^2 - margin]_+: trains G

    Args:
        loss: a `TripletLoss` (with margin=1 as in the paper), or an `NPairLoss`, with one negative per other class.
        head: the head of the network; it is not a part of the method.
        width: dimensions of the features.
        plain_steps: steps of the first phase.
        regularization: lambda 1; a port has 1 as well.
        adversarial: lambda 2; a port has 50.
        hidden: units of each of the two hidden layers of G.

    Source: Duan et al., "Deep Adversarial Metric Learning", CVPR 2018, and the authors' program. Differs from the
    source: the metric network is the head of the model, as it comes, and the features are those of its backbone,
    divided by their mean norm. Embeddings are L2-normalised where the loss normalises. The last layer of G has no ReLU,
    since features may be negative. The adversarial term trains G alone, where the program back-propagates both
    objectives to everything. The hinge of the adversarial term also goes with N-pair, with a margin of 1.
    """

    rates: ClassVar[Mapping[str, float]] = {"generator": 0.1}
    steps: Tensor

    @validates
    def __init__(
        self,
        loss: PairLoss,
        head: nn.Module,
        width: int,
        plain_steps: int = 100,
        regularization: float = 1.0,
        adversarial: float = 1.0,
        hidden: int = 512,
    ) -> None:
        super().__init__(checked(loss))
        size, units = as_whole(width, "width", least=1), as_whole(hidden, "hidden", least=1)
        self.plain_steps = as_whole(plain_steps, "plain_steps", least=0)
        self.regularization = as_number(regularization, "regularization", least=0)
        self.adversarial = as_number(adversarial, "adversarial", least=0)
        self._head = (head,)  # in a tuple, so that its parameters are not those of the method
        layers = nn.Linear(3 * size, units), nn.Linear(units, units), nn.Linear(units, size)
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.generator = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The loss alone in the first phase, then both objectives."""
        self.steps += 1
        if int(self.steps) <= self.plain_steps:
            return {"metric": Objective(self.loss(embeddings, labels), (NETWORK, "loss"))}
        chosen = triplets_for(self.loss, labels)
        norm = features.detach().norm(dim=1).mean().clamp(min=1e-6)
        scaled = features / norm
        original = scaled[chosen.negative]
        sides = [scaled[each][:, None].expand_as(original) for each in (chosen.anchor, chosen.positive)]
        generated = self.generator(torch.cat([*sides, original], dim=2))
        embedded = self._head[0](generated * norm)
        anchor, positive = embeddings[chosen.anchor], embeddings[chosen.positive]
        metric = chosen.value(self.loss, anchor, positive, embedded) / 2
        of_anchor, of_positive, of_generated = (rows_of(self.loss, each) for each in (anchor, positive, embedded))
        margin = float(self.loss.parameters_of_function.get("margin", 1.0))
        gap = _apart(of_anchor[:, None], of_generated) - _apart(of_anchor, of_positive)[:, None] - margin
        generator = (
            chosen.mean(_apart(generated, sides[0]))
            + self.regularization * chosen.mean(_apart(generated, original))
            + self.adversarial * chosen.mean(functional.relu(gap)) / 2
        )
        return {
            "metric": Objective(metric, (NETWORK, "loss")),
            "generator": Objective(generator, ("generator",)),
        }


def _apart(left: Float[Tensor, "*#b d"], right: Float[Tensor, "*#b d"]) -> Float[Tensor, "*#b"]:
    return (left - right).square().sum(dim=-1)
