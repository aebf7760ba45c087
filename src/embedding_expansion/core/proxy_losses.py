"""The losses on proxies as modules: pair losses that bring their own reference, a learnt point (or several) a class."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.core import losses
from embedding_expansion.core.batch import Batch
from embedding_expansion.core.inputs import Labels, check_classes, validates, whole_number
from embedding_expansion.core.pair_loss import OPTIONS, PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import parameters_of
from embedding_expansion.core.terms import Terms, distance
from embedding_expansion.errors import InvalidInput, InvalidType


class ProxyLoss(PairLoss):
    """A loss that compares the batch with learnt proxies of all training classes.

    The proxies are parameters: give `loss.parameters()` to the optimiser as well (papers: 1 to 100 times the model's
    learning rate, docs/proxy-losses.md), and move the loss to the model's device.

    Args:
        num_classes: training classes, 2 or more.
        embedding_size: dimensions of the embeddings.
        *parameters: of the loss function, by position or by name.
        **named: more parameters, and the options of PairLoss; `normalize` is for embeddings and proxies.

    Attributes:
        proxies: (num_classes * k, embedding_size), the k proxies of class 0, then those of class 1, ... They begin as
            Gaussian directions with norms of about 1.

    Shapes: embeddings (b, embedding_size); labels (b,), from 0 to num_classes - 1.

    Raises:
        InvalidInput, InvalidType, UnknownName: if an option or a batch cannot be used, or a reference is given.
    """

    per_class: int = 1

    def __init_subclass__(cls, **line: Any) -> None:
        """The line of the registry, as of PairLoss."""
        super().__init_subclass__(**line)
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        first = [parameter for parameter in own if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
        last = [parameter for parameter in own if parameter.kind is parameter.KEYWORD_ONLY]
        cls.__signature__ = inspect.Signature([*first, *parameters_of(cls.function).values(), *last, *OPTIONS])

    @validates
    def __init__(self, num_classes: int, embedding_size: int, *parameters: Any, **named: Any) -> None:
        super().__init__(*parameters, **named)
        self.num_classes = _count("num_classes", num_classes, 2)
        self.embedding_size = _count("embedding_size", embedding_size, 1)
        shape = self.num_classes * self.per_class, self.embedding_size
        self.proxies = nn.Parameter(torch.randn(shape) / math.sqrt(self.embedding_size))

    @validates
    def reference(
        self,
        embeddings: Float[Tensor, "b d"],
        labels: Int[Tensor, " b"],
        reference: Float[Tensor, "g d"] | None,
        reference_labels: Labels | None,
    ) -> tuple[Float[Tensor, "g d"], Int[Tensor, " g"]]:
        """The proxies and their classes, after a look at whether the batch fits them."""
        name = type(self).__name__
        if reference is not None or reference_labels is not None:
            raise InvalidInput(f"{name} compares with its own proxies; leave reference and reference_labels out")
        if embeddings.shape[1] != self.embedding_size:
            raise InvalidInput(
                f"embeddings has {embeddings.shape[1]} dimensions, but the proxies of {name} have "
                f"{self.embedding_size}; pass embedding_size={embeddings.shape[1]} when the loss is made"
            )
        check_classes(labels, self.num_classes, f"num_classes of {name}")
        classes = torch.arange(self.num_classes, device=labels.device).repeat_interleave(self.per_class)
        return self.proxies, classes

    @property
    def takes_no_pairs(self) -> str:
        """Its pairs are of an image and a proxy."""
        return f"{type(self).__name__} compares images with proxies and not with each other"

    def oriented(self, batch: Batch) -> Batch:
        """The batch's rows are the anchors, the proxies are what they are compared with."""
        return batch.against_proxies()

    def extra_repr(self) -> str:
        """The numbers of proxies and dimensions, and the parameters."""
        return f"proxies={tuple(self.proxies.shape)}, {super().extra_repr()}"


def _count(name: str, given: object, least: int) -> int:
    count = whole_number(given)
    if count is None:
        raise InvalidType(f"{name} is {given!r}; pass a whole number, {least} or more")
    if count < least:
        raise InvalidInput(f"{name} is {count}; pass {least} or more")
    return count


class ProxyNCALoss(ProxyLoss, function=losses.proxy_nca, metric="euclidean", positive=("scale",)):
    """Proxy-NCA (scale=1.0, whole_softmax=False); see `losses.proxy_nca`, and ProxyLoss for the rest.

    Expanded, an anchor is pushed from every other class's proxy by the hardest point of its own class, original or
    synthetic, and pulled to its own proxy itself.
    """


class NormalizedSoftmaxLoss(ProxyLoss, function=losses.normalized_softmax, metric="inner", positive=("temperature",)):
    """Normalised softmax (temperature=0.05); see `losses.normalized_softmax`. Expanded as ProxyNCALoss."""


class CosFaceLoss(ProxyLoss, function=losses.cosface, metric="inner", positive=("scale",)):
    """CosFace (margin=0.35, scale=64.0); see `losses.cosface`. Expanded as ProxyNCALoss."""


class ArcFaceLoss(ProxyLoss, function=losses.arcface, metric="inner", positive=("scale",)):
    """ArcFace (margin=0.5 radians, scale=64.0); see `losses.arcface`. Expanded as ProxyNCALoss."""


class SubCenterArcFaceLoss(ProxyLoss, function=losses.arcface, metric="inner", positive=("scale",)):
    """SubCenter-ArcFace (sub_centers=3, margin=0.5 radians, scale=64.0): `losses.arcface` of `losses.nearest_center`.

    Expanded, the hardest point of the anchor's class is compared with the nearest sub-centre of every other class;
    there are no points between sub-centres.
    """

    @validates
    def __init__(
        self, num_classes: int, embedding_size: int, sub_centers: int = 3, *parameters: Any, **named: Any
    ) -> None:
        self.per_class = _count("sub_centers", sub_centers, 1)  # first: the proxies are made of it
        super().__init__(num_classes, embedding_size, *parameters, **named)

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The similarities to the nearest sub-centre of every class. An expanded table has these already."""
        return losses.nearest_center(super().compare(batch, statistics=statistics), self.per_class)


class SoftTripleLoss(
    ProxyLoss,
    function=losses.soft_triple,
    metric="inner",
    positive=("scale", "gamma"),
    monotone=False,
    not_expandable="a class is a weighted sum over its centres, which a single hardest pair cannot represent",
):
    """SoftTriple (centers_per_class=10, margin=0.01, scale=20.0, gamma=0.1, tau=0.2); see `losses.soft_triple`.

    tau weighs what draws the centres of a class together where it needs fewer: tau / (C K (K - 1)) times the sum of the
    distances of any two centres of a class, for C classes of K centres each.
    """

    @validates
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        centers_per_class: int = 10,
        *parameters: Any,
        tau: float = 0.2,
        **named: Any,
    ) -> None:
        self.per_class = _count("centers_per_class", centers_per_class, 1)  # first: the proxies are made of it
        super().__init__(num_classes, embedding_size, *parameters, **named)
        if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not 0 <= tau < math.inf:
            raise InvalidInput(f"tau of SoftTripleLoss is {tau!r}; pass a number of 0 or more, by default 0.2")
        self.tau = tau

    def terms(self, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None) -> Terms:
        """What each anchor adds; that of the centres is a mean of its own, to which every anchor adds the same."""
        terms = losses.soft_triple(pairs, **self.parameters_of_function, centers_per_class=self.per_class)
        if self.tau == 0 or self.per_class == 1:
            return terms
        spread = (self.tau * self.spread()).to(terms.total.dtype).expand(1, terms.total.shape[1])
        return Terms(torch.cat([terms.total, spread]), torch.cat([terms.weight, torch.ones_like(spread)]))

    def spread(self) -> Float[Tensor, ""]:
        """The sum of the distances of any two centres of a class, over C K (K - 1)."""
        centers = functional.normalize(self.proxies, dim=1).view(self.num_classes, self.per_class, -1)
        t, s = torch.triu_indices(self.per_class, self.per_class, offset=1)
        similarity = (centers @ centers.mT)[:, t, s]
        return distance(similarity).sum() / (len(self.proxies) * (self.per_class - 1))

    def extra_repr(self) -> str:
        """The parameters, and tau."""
        return f"{super().extra_repr()}, tau={self.tau}"


class ProxyAnchorLoss(ProxyLoss, function=losses.proxy_anchor, metric="inner", positive=("alpha",)):
    """Proxy-Anchor (margin=0.1, alpha=32.0); see `losses.proxy_anchor`, and ProxyLoss for the rest.

    The anchors are the proxies and the whole batch is what they are compared with, so `rows` and `past` change nothing,
    and reduction "none" gives the terms of the proxies. Expanded, every other class of the batch pushes a proxy with
    its hardest point, original or synthetic.
    """

    def oriented(self, batch: Batch) -> Batch:
        """The proxies are the anchors, the batch is what they are compared with."""
        return batch.turned() if len(batch.labels) else batch


PROXY_LOSSES: dict[str, type[ProxyLoss]] = {
    "proxy_nca": ProxyNCALoss,
    "normalized_softmax": NormalizedSoftmaxLoss,
    "cosface": CosFaceLoss,
    "arcface": ArcFaceLoss,
    "sub_center_arcface": SubCenterArcFaceLoss,
    "soft_triple": SoftTripleLoss,
    "proxy_anchor": ProxyAnchorLoss,
}
