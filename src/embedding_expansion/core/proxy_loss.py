"""The base of the losses on proxies. Their reference is one learnt point, or several, for each class."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from embedding_expansion.checks import as_whole
from embedding_expansion.core.batch import Inputs, adjacent
from embedding_expansion.core.inputs import check_classes, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.parameters import Options
from embedding_expansion.errors import InvalidInput


class ProxyLoss(PairLoss):
    """A loss that compares the batch with learnt proxies of all training classes.

    The proxies are parameters. Pass `loss.parameters()` to the optimiser too (the papers use 1 to 100 times the
    learning rate of the model, see docs/proxy-losses.md), and move the loss to the device of the model.

    Args:
        num_classes: the number of training classes, 2 or more.
        embedding_size: dimensions of the embeddings.
        parameters: the parameters of the loss function, by name. The losses of this package take each parameter as an
            argument instead.
        **options: as in `PairLoss`; `normalize` applies to embeddings and proxies.

    Attributes:
        proxies: (num_classes * k, embedding_size), the k proxies of class 0, then those of class 1, and so on. They are
            initialised from a Gaussian distribution, with norms of about 1.

    Shapes: embeddings (b, embedding_size); labels (b,), from 0 to num_classes - 1.

    Raises:
        InvalidInput, InvalidType, UnknownName: if an option or a batch cannot be used, or a reference is given.
    """

    per_class: int = 1

    @validates
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        parameters: Mapping[str, Any] | None = None,
        /,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(parameters, **options)
        self.num_classes = as_whole(num_classes, "num_classes", least=2)
        self.embedding_size = as_whole(embedding_size, "embedding_size", least=1)
        shape = self.num_classes * self.per_class, self.embedding_size
        self.proxies = nn.Parameter(torch.randn(shape) / math.sqrt(self.embedding_size))

    def with_reference(self, inputs: Inputs) -> Inputs:
        """Adds the proxies and their classes to the arguments, as the reference."""
        name, size = type(self).__name__, inputs.embeddings.shape[1]
        if inputs.reference is not None:
            raise InvalidInput(f"{name} compares with its own proxies; leave reference and reference_labels out")
        if size != self.embedding_size:
            raise InvalidInput(
                f"embeddings has {size} dimensions, but the proxies of {name} have {self.embedding_size}; pass "
                f"embedding_size={size} when the loss is made"
            )
        check_classes(inputs.labels, self.num_classes, f"num_classes of {name}", inputs.values)
        classes = adjacent(self.num_classes, self.per_class, inputs.labels.device)
        return replace(inputs, reference=self.proxies, reference_labels=classes, proxies=self.per_class)

    def with_proxies(self, proxies: Float[Tensor, "p d"]) -> ProxyLoss:
        """The loss with other proxies, such as its own and those of further classes, as part of a graph.

        Args:
            proxies: as the attribute `proxies`. The result has no parameters; the gradient passes to this tensor.
        """
        other = copy.copy(self)
        other._parameters = {}
        other.__dict__["proxies"], other.num_classes = proxies, len(proxies) // self.per_class
        return other

    @property
    def takes_no_pairs(self) -> str:
        """The reason why the loss does not accept an `indices_tuple`: its pairs consist of an image and a proxy."""
        return f"{type(self).__name__} compares images with proxies and not with each other"

    def extra_repr(self) -> str:
        """The shape of the proxies, and the parameters."""
        return f"proxies={tuple(self.proxies.shape)}, {super().extra_repr()}"
