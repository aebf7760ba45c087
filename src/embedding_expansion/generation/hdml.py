"""HDML, hardness-aware deep metric learning: negatives are pulled towards the anchor, and a generator corrects them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.checks import as_number, as_share, as_whole, validates
from embedding_expansion.core.inputs import check_classes
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.triplets import Triplets, checked, triplets_for

UNTRAINED = 1e6  # J_avg and J_gen before the first window is full


class HDML(Method, name="hdml"):
    """Hardness-aware deep metric learning: a loss of triplets, and of triplets that are as hard as the loss is low.

    z are embeddings and y features. A negative that is further from the anchor than the positive (d- > d+) is pulled to
    the distance d+ + (d- - d+) exp(-pull / J_avg) on the line to the anchor. The generator G maps the anchor, the
    positive and the pulled negative back to features, which the head embeds. J_avg and J_gen are means over the last
    full window of steps, 1e6 before the first one.

        metric      w J_m + (1 - w) J_syn with w = exp(-balance / J_gen): trains the network. J_m is the loss of the
                    triplets, J_syn that of the generated ones
        generator   (1 - share) sum |G(z) - y|^2 + softmax share CE: trains G. CE is the cross-entropy of the classifier
                    on generated anchors and pulled negatives
        classifier  the cross-entropy of a linear classifier on y: trains the classifier

    Args:
        loss: a `TripletLoss` (with margin=1 as in the paper) or an `NPairLoss`, with one negative per other class; with
            normalize=False as in the paper.
        head: the head of the network; it is not a part of the method.
        width: dimensions of the features.
        embedding_size: dimensions of the embeddings.
        num_classes: the number of training classes.
        pull: alpha of the pulling; a port has 7 for triplets.
        balance: beta of the weight w; 0 trains with J_m alone.
        share: lambda of J_gen.
        softmax: the factor of the cross-entropy in J_gen.
        window: steps of a window.
        hidden: units of the hidden layer of G.

    Source: Zheng et al., "Hardness-Aware Deep Metric Learning", CVPR 2019, and the authors' program. Differs from the
    source: the head is that of the model, without batch norm before it; the weight decay is that of the optimiser and
    no part of J_m, and so of J_avg. The learning rates of the generator and the classifier are 10 and 1 times that of
    the head, which gives those of the program at 1e-3.
    """

    rates: ClassVar[Mapping[str, float]] = {"generator": 10.0, "classifier": 1.0}
    averages: Tensor
    sums: Tensor
    steps: Tensor

    @validates
    def __init__(
        self,
        loss: PairLoss,
        head: nn.Module,
        width: int,
        embedding_size: int,
        num_classes: int,
        pull: float = 90.0,
        balance: float = 1e4,
        share: float = 0.5,
        softmax: float = 1e4,
        window: int = 64,
        hidden: int = 512,
    ) -> None:
        super().__init__(checked(loss))
        size, units = as_whole(width, "width", least=1), as_whole(hidden, "hidden", least=1)
        self.pull, self.balance = as_number(pull, "pull", least=0), as_number(balance, "balance", least=0)
        self.share, self.softmax = as_share(share, "share"), as_number(softmax, "softmax", least=0)
        self.window = as_whole(window, "window", least=1)
        self._head = (head,)  # in a tuple, so that its parameters are not those of the method
        self.generator = nn.Sequential(
            nn.Linear(as_whole(embedding_size, "embedding_size", least=1), units),
            nn.ReLU(),
            nn.BatchNorm1d(units),
            nn.Linear(units, size),
        )
        self.classifier = nn.Linear(size, as_whole(num_classes, "num_classes", least=1))
        self.register_buffer("averages", torch.full((2,), UNTRAINED))  # J_avg and J_gen of the last full window
        self.register_buffer("sums", torch.zeros(2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The three objectives; a batch without triplets has the last one only."""
        check_classes(labels, self.classifier.out_features, "num_classes of HDML")
        chosen = triplets_for(self.loss, labels)
        anchor, positive, negative = (embeddings[each] for each in chosen[:3])
        pulled = self._pulled(anchor, positive, negative)
        made = self.generator(torch.cat([embeddings, pulled.flatten(0, 1)]))
        again, of_pulled = made[: len(labels)], made[len(labels) :].view(*pulled.shape[:2], made.shape[1])
        plain = chosen.value(self.loss, anchor, positive, negative)
        embedded = self._head[0](again)
        synthetic = chosen.value(
            self.loss, embedded[chosen.anchor], embedded[chosen.positive], self._head[0](of_pulled)
        )
        weight = (-self.balance / self.averages[1]).exp()
        reconstruction = (1 - self.share) * (again - features).square().sum()
        generator = reconstruction + self.softmax * self.share * self._misread(again, of_pulled, chosen, labels)
        self._count(plain.detach(), generator.detach())
        return {
            "metric": Objective(weight * plain + (1 - weight) * synthetic, (NETWORK, "loss")),
            "generator": Objective(generator, ("generator",)),
            "classifier": Objective(functional.cross_entropy(self.classifier(features), labels), ("classifier",)),
        }

    def _pulled(
        self, anchor: Float[Tensor, "q d"], positive: Float[Tensor, "q d"], negative: Float[Tensor, "q m d"]
    ) -> Float[Tensor, "q m d"]:
        """The negatives at their new distances from the anchor."""
        apart = negative - anchor[:, None]
        near = (anchor - positive).norm(dim=1)[:, None, None]
        away = apart.norm(dim=2, keepdim=True)
        target = near + (away - near) * (-self.pull / self.averages[0]).exp()
        return torch.where(near < away, anchor[:, None] + apart * target / away.clamp(min=1e-12), negative)

    def _misread(
        self, again: Float[Tensor, "b w"], of_pulled: Float[Tensor, "q m w"], chosen: Triplets, labels: Tensor
    ) -> Tensor:
        """The mean cross-entropy of the classifier on generated anchors and pulled negatives."""
        made = torch.cat([again[chosen.anchor], of_pulled[chosen.mask]])
        truth = torch.cat([labels[chosen.anchor], labels[chosen.negative[chosen.mask]]])
        return functional.cross_entropy(self.classifier(made), truth)

    def _count(self, plain: Tensor, generator: Tensor) -> None:
        """Adds the values of a step to the window; a full window gives the averages."""
        self.sums += torch.stack([plain, generator]).to(self.sums.dtype)
        self.steps += 1
        if int(self.steps) % self.window == 0:
            self.averages.copy_(self.sums / self.window)
            self.sums.zero_()
