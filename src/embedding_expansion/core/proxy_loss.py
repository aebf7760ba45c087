"""What the losses on proxies share: the reference is their own, a learnt point (or several) for each class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import nn

from embedding_expansion.checks import as_whole
from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.inputs import check_classes, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.parameters import Options
from embedding_expansion.errors import InvalidInput


class ProxyLoss(PairLoss):
    """A loss that compares the batch with learnt proxies of all training classes.

    The proxies are parameters: give `loss.parameters()` to the optimiser as well (papers: 1 to 100 times the model's
    learning rate, docs/proxy-losses.md), and move the loss to the model's device.

    Args:
        num_classes: training classes, 2 or more.
        embedding_size: dimensions of the embeddings.
        parameters: of the loss function, by name; a loss of this package takes each of them as an argument.
        **options: those of PairLoss; `normalize` is for embeddings and proxies.

    Attributes:
        proxies: (num_classes * k, embedding_size), the k proxies of class 0, then those of class 1, ... They begin as
            Gaussian directions with norms of about 1.

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
        """The arguments with the proxies and their classes as the reference."""
        name, size = type(self).__name__, inputs.embeddings.shape[1]
        if inputs.reference is not None:
            raise InvalidInput(f"{name} compares with its own proxies; leave reference and reference_labels out")
        if size != self.embedding_size:
            raise InvalidInput(
                f"embeddings has {size} dimensions, but the proxies of {name} have {self.embedding_size}; pass "
                f"embedding_size={size} when the loss is made"
            )
        check_classes(inputs.labels, self.num_classes, f"num_classes of {name}")
        classes = torch.arange(self.num_classes, device=inputs.labels.device).repeat_interleave(self.per_class)
        return replace(inputs, reference=self.proxies, reference_labels=classes)

    @property
    def takes_no_pairs(self) -> str:
        """Its pairs are of an image and a proxy."""
        return f"{type(self).__name__} compares images with proxies and not with each other"

    def with_anchors(self, batch: Batch) -> Batch:
        """The batch's rows are the anchors, the proxies are what they are compared with."""
        return batch.against_proxies()

    def extra_repr(self) -> str:
        """The numbers of proxies and dimensions, and the parameters."""
        return f"proxies={tuple(self.proxies.shape)}, {super().extra_repr()}"
