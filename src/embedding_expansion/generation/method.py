"""What the methods that synthesise samples have in common: modules of their own, and named objectives of a batch.

A method turns backbone features, embeddings and labels into objectives, each of which says what it trains. `backward`
takes one gradient per objective, so that a generator and the network that it tries to fool can have opposite aims. The
modules and the schedule of a method (buffers, which count its steps) are in its state dict. A model is exported without
them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from embedding_expansion.checks import validates
from embedding_expansion.core.batch import widened
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import InvalidInput, InvalidType

#: Stands for the network in `Objective.trains`: what computed the features and the embeddings.
NETWORK = "network"


class Objective(NamedTuple):
    """A value to minimise, and what it trains.

    Attributes:
        value: a scalar.
        trains: the attributes of the method whose parameters it trains, such as "loss" or "generator", and "network".
            Its gradient of all other parameters is dropped.
    """

    value: Tensor
    trains: tuple[str, ...]


class Method(ABC, nn.Module):
    """A method that synthesises samples for a pair loss.

    Args:
        loss: the loss. Its parameters, such as proxies, are among those of the method.

    Attributes:
        name: the name in `embex train --method`.
        rates: attribute -> its learning rate, as a multiple of that of the network's head; 1 if it is not listed.

    A loop of one's own trains the parameters of the network and of the method:

        objectives = method.step(features, model.head(features), labels)
        optimizer.zero_grad()
        backward(method, objectives, model)
        optimizer.step()
    """

    name: ClassVar[str]
    rates: ClassVar[Mapping[str, float]] = {}

    def __init_subclass__(cls, *, name: str) -> None:
        cls.name = name

    @validates
    def __init__(self, loss: PairLoss) -> None:
        super().__init__()
        if not isinstance(loss, PairLoss):
            raise InvalidType(f"loss is a {type(loss).__name__}; pass an instance of one of this package's losses")
        self.loss = loss
        self._values: dict[str, Tensor] = {}  # of the objectives of the last step

    @validates
    def step(self, features: Tensor, embeddings: Tensor, labels: Tensor) -> dict[str, Objective]:
        """The objectives of a batch by name, the one of the embeddings first. It also advances the schedule.

        Args:
            features: (b, w), floating, what the head of the network gets.
            embeddings: (b, d), what it makes of them, not normalised. Computed with gradient, like the features.
            labels: (b,), int64; from 0 to num_classes - 1 for methods that keep something of each class.

        Raises:
            InvalidInput: the shapes do not fit each other.
        """
        sizes = (len(features), len(embeddings), len(labels))
        if features.ndim != 2 or embeddings.ndim != 2 or labels.ndim != 1 or len(set(sizes)) > 1:
            shapes = ", ".join(str(tuple(given.shape)) for given in (features, embeddings, labels))
            raise InvalidInput(
                f"features, embeddings and labels have the shapes {shapes}; pass (b, w), (b, d) and (b,) of one batch"
            )
        self.loss.last_statistics.clear()  # in some phases the loss is read from a table of the method
        with torch.autocast(embeddings.device.type, enabled=False):
            found = self.objectives(widened(features), widened(embeddings), labels)
        self._values = {f"objective_{name}": objective.value.detach() for name, objective in found.items()}
        return found

    @abstractmethod
    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """What `step` returns, of float32 (or float64) tensors."""

    def trained_by(self, objective: Objective, network: nn.Module) -> list[nn.Parameter]:
        """The parameters that an objective trains."""
        parts = [network if name == NETWORK else getattr(self, name) for name in objective.trains]
        return [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]

    def plain(self) -> PairLoss:
        """The loss inside, as `PairLoss.plain`."""
        return self.loss.plain()

    @property
    def last_statistics(self) -> dict[str, Tensor]:
        """Figures of the last batch, as `PairLoss.last_statistics`, and the values of the objectives."""
        return self.loss.last_statistics | self._values


def backward(
    method: Method, objectives: Mapping[str, Objective], network: nn.Module, *, scale: Tensor | float = 1.0
) -> None:
    """Adds the gradient of each objective to `grad` of the parameters that this objective trains.

    Args:
        method: the method.
        objectives: what its `step` returned.
        network: the network that computed the features and the embeddings, or its head if it alone learns.
        scale: multiplies the gradients, as `torch.amp.GradScaler` does for float16.
    """
    left = len(objectives)
    for objective in objectives.values():
        left -= 1
        parameters = method.trained_by(objective, network)
        if not objective.value.requires_grad or not parameters:
            continue  # nothing in this batch depends on a parameter
        found = torch.autograd.grad(objective.value * scale, parameters, retain_graph=left > 0, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
