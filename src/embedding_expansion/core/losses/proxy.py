"""Losses on proxies, learnt points that represent classes: Proxy-NCA, softmax and its margins, Proxy-Anchor.

The table is `compare(embeddings, labels, reference=proxies, reference_labels=...)`: an anchor's positives are the
proxies of its class, its negatives the proxies of all other classes. Proxy-Anchor swaps the sides: its anchors are the
proxies, and its reference is the batch.

Notation: s is a similarity of the table, d^2 = 2 - 2s; y is the anchor's class, z runs over the other classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.checks import as_number, as_whole
from embedding_expansion.core.batch import Batch
from embedding_expansion.core.inputs import validates
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.parameters import Options
from embedding_expansion.core.proxy_loss import ProxyLoss
from embedding_expansion.core.terms import (
    Terms,
    distance,
    masked_logsumexp,
    negatives_of_anchors,
    square,
    squared_distance,
)

SMALLEST_SQUARE = 1e-12  # lower bound of a squared sine, because the slope of the square root is infinite at 0


def _target(pairs: Pairs) -> tuple[Float[Tensor, " a"], Bool[Tensor, " a"]]:
    """The similarity to the nearest proxy of the anchor's class, and whether the class has a proxy.

    Without a proxy the similarity is an arbitrary finite number.
    """
    if not torch.compiler.is_compiling() and pairs.positive.shape[1] == 1:
        return pairs.positive[:, 0], pairs.positive_mask[:, 0]
    has_target = pairs.positive_mask.any(dim=1)
    nearest = torch.where(pairs.positive_mask, pairs.positive, -torch.inf).max(dim=1).values
    return torch.where(has_target, nearest, 0), has_target


def _cross_entropy(target: Float[Tensor, " a"], has_target: Bool[Tensor, " a"], pairs: Pairs, scale: float) -> Terms:
    """The cross-entropy of the anchor's class among all classes, with logits scale * similarity; mean over anchors."""
    negative, negative_mask = negatives_of_anchors(pairs)
    against = masked_logsumexp(scale * negative, negative_mask)
    counts = has_target.to(target.dtype)
    term = counts * functional.softplus(against - scale * target)
    return Terms(term[None], counts[None])


def proxy_nca(pairs: Pairs, scale: float = 1.0, whole_softmax: bool = False) -> Terms:
    """Proxy-NCA: the mean over anchors of -log(exp(-scale d_y^2) / sum over z of exp(-scale d_z^2)).

    Args:
        pairs: anchors against proxies, one per class, metric "euclidean".
        scale: multiplies the squared distances (an inverse temperature).
        whole_softmax: include the anchor's class in the sum, as pytorch-metric-learning and Proxy-NCA++ do.

    Returns:
        Terms (1, a), weight 1 for every anchor that has a negative and whose class has a proxy. Totals can be negative
        unless `whole_softmax` is set.

    Source: Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", ICCV 2017, equation 4 with
    proxies in place of points (section 3.2). Differs from the source: nothing; the source has no scale.
    """
    target, has_target = _target(pairs)
    negative, negative_mask = negatives_of_anchors(pairs)
    counts = (has_target & negative_mask.any(dim=1)).to(target.dtype)
    pull = scale * squared_distance(target)
    against = masked_logsumexp(-scale * squared_distance(negative), negative_mask)
    term = counts * (pull + against)
    term = counts * functional.softplus(term) if whole_softmax else term
    return Terms(term[None], counts[None])


def normalized_softmax(pairs: Pairs, temperature: float = 0.05) -> Terms:
    """Normalised softmax: the mean over anchors of -log(exp(s_y / t) / (exp(s_y / t) + sum over z of exp(s_z / t))).

    Args:
        pairs: anchors against proxies, one per class, metric "inner".
        temperature: t; a small value makes the softmax sharp.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy.

    Source: Zhai & Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019, section 3, the
    normalised softmax loss with a temperature. Differs from the source: the layer normalisation before the loss is left
    to the model.
    """
    return _cross_entropy(*_target(pairs), pairs, 1 / temperature)


def cosface(pairs: Pairs, margin: float = 0.35, scale: float = 64.0) -> Terms:
    """CosFace, large margin cosine loss: softmax cross-entropy of scale * s_z against scale * (s_y - margin).

    Args:
        pairs: anchors against proxies, one per class, metric "inner", of unit rows.
        margin: the margin on the cosine.
        scale: the norm to which embeddings are scaled.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy.

    Source: Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, equation 4. Differs
    from the source: nothing.
    """
    target, has_target = _target(pairs)
    return _cross_entropy(target - margin, has_target, pairs, scale)


def arcface(pairs: Pairs, margin: float = 0.5, scale: float = 64.0) -> Terms:
    """ArcFace, angular margin loss: softmax cross-entropy of scale * s_z against scale * cos(angle_y + margin).

    Args:
        pairs: anchors against proxies, one per class, metric "inner", of unit rows.
        margin: the margin on the angle, in radians.
        scale: the norm to which embeddings are scaled.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy.

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, equation 3.
    Differs from the source: where angle + margin exceeds pi, beyond which the cosine would rise again, the logit is
    scale * (s_y - margin sin(margin)), as in the authors' program.
    """
    target, has_target = _target(pairs)
    cosine = target.clamp(-1, 1)
    sine = (1 - square(cosine)).clamp(min=SMALLEST_SQUARE).sqrt()
    widened = cosine * math.cos(margin) - sine * math.sin(margin)
    narrow_enough = cosine >= -math.cos(margin)  # angle <= pi - margin
    return _cross_entropy(
        torch.where(narrow_enough, widened, cosine - margin * math.sin(margin)), has_target, pairs, scale
    )


def nearest_center(pairs: Pairs, k: int) -> Pairs:
    """Reduces k proxies per class to one similarity per class: that of the nearest proxy.

    Args:
        pairs: anchors against the proxies of every class, where the proxies of a class are adjacent.
        k: the number of proxies per class.

    Returns:
        Pairs with one positive, and one negative per other class. `arcface` of these pairs is SubCenter-ArcFace.

    Source: Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces", ECCV 2020,
    the max pooling over sub-centres. Differs from the source: nothing.
    """
    found = _one_a_class(pairs, k, lambda similarity: similarity.max(dim=-1).values)
    if pairs.speeds is None or len(pairs.positive) == 0:
        return found
    shapes = (-1, 1, k), (-1, found.negative.shape[1], k)
    speeds = [
        speed.view(shape).gather(2, similarity.view(shape).argmax(dim=2, keepdim=True))[..., 0]
        for speed, similarity, shape in zip(pairs.speeds, (pairs.positive, pairs.negative), shapes, strict=True)
    ]
    return replace(found, speeds=(speeds[0], speeds[1]))


def soft_centers(pairs: Pairs, k: int, gamma: float = 0.1) -> Pairs:
    """Reduces k proxies per class to one similarity: their mean, weighted by the softmax of similarity / gamma.

    Args:
        pairs: anchors against the proxies of every class, where the proxies of a class are adjacent.
        k: the number of proxies per class.
        gamma: a small value prefers the nearest proxy.

    Returns:
        Pairs with one positive, and one negative per other class. `cosface` of these pairs is SoftTriple.

    Source: Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", ICCV 2019, the
    relaxed similarity of an example to a class. Differs from the source: nothing.
    """
    return _one_a_class(
        pairs, k, lambda similarity: (torch.softmax(similarity / gamma, dim=-1) * similarity).sum(dim=-1)
    )


def _one_a_class(pairs: Pairs, k: int, reading: Callable[[Tensor], Tensor]) -> Pairs:
    """Reduces the similarities to the k proxies of each class to one, by `reading` along the last axis."""
    if len(pairs.positive) == 0:
        return pairs
    negative, negative_mask = negatives_of_anchors(pairs)
    classes = reading(torch.cat([pairs.positive[:, None], torch.unflatten(negative, 1, (-1, k))], dim=1))
    positive, negative = torch.split(classes, [1, classes.shape[1] - 1], dim=1)
    return Pairs(
        positive=positive,
        positive_mask=pairs.positive_mask[:, :1],  # a class has all its proxies or none
        negative=negative,
        negative_mask=negative_mask[:, ::k],
        partner=None,
        per_class=pairs.per_class,
    )


def soft_triple(
    pairs: Pairs, margin: float = 0.01, scale: float = 20.0, gamma: float = 0.1, *, centers_per_class: int
) -> Terms:
    """SoftTriple: softmax cross-entropy of scale * S_z against scale * (S_y - margin), S as in `soft_centers`.

    Args:
        pairs: anchors against the k proxies of every class, where the proxies of a class are adjacent, metric "inner".
        margin: the margin on the similarity (delta in the paper).
        scale: the sharpness of the softmax over classes (lambda in the paper).
        gamma: the temperature of the softmax over the proxies of a class; a small value prefers the nearest.
        centers_per_class: k, the number of proxies per class.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy.

    Source: Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", ICCV 2019, the
    loss of the title. Differs from the source: the regulariser, which pulls the proxies of a class together, is part of
    the module `SoftTripleLoss`, because it does not depend on the batch.
    """
    return cosface(soft_centers(pairs, centers_per_class, gamma), margin, scale)


def proxy_anchor(pairs: Pairs, margin: float = 0.1, alpha: float = 32.0) -> Terms:
    """Proxy-Anchor: every proxy pulls the rows of its class and pushes all other rows, the hardest ones the most.

        mean over proxies with positives of log(1 + sum over P of exp(-alpha (s - margin)))
        + mean over all proxies of log(1 + sum over N of exp(alpha (s + margin)))

    Args:
        pairs: proxies, one per class, against the batch, metric "inner".
        margin: the margin on the similarity (delta in the paper).
        alpha: the sharpness.

    Returns:
        Terms (2, a). The first mean, the pull, is over the proxies of classes in the batch; the second, the push, is
        over all proxies.

    Source: Kim et al., "Proxy Anchor Loss for Deep Metric Learning", CVPR 2020, equation 4. Differs from the source:
    nothing.
    """
    pull = functional.softplus(masked_logsumexp(-alpha * (pairs.positive - margin), pairs.positive_mask))
    negative, negative_mask = negatives_of_anchors(pairs)
    push = functional.softplus(masked_logsumexp(alpha * (negative + margin), negative_mask))
    return Terms(
        torch.stack([pull, push]),
        torch.stack([pairs.positive_mask.any(dim=1).to(pull.dtype), torch.ones_like(push)]),
    )


class ProxyNCALoss(ProxyLoss, function=proxy_nca, metric="euclidean", positive=("scale",)):
    """Proxy-NCA (scale=1.0, whole_softmax=False); see `losses.proxy_nca`, and `ProxyLoss` for the other arguments.

    With expansion, the similarity to the proxy of another class is that of the hardest point of the anchor's class,
    original or synthetic. The similarity to the proxy of the anchor's class is that of the anchor itself.
    """

    @validates
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        scale: float = 1.0,
        whole_softmax: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_classes, embedding_size, {"scale": scale, "whole_softmax": whole_softmax}, **options)


class NormalizedSoftmaxLoss(ProxyLoss, function=normalized_softmax, metric="inner", positive=("temperature",)):
    """Normalised softmax (temperature=0.05); see `losses.normalized_softmax`. It is expanded as ProxyNCALoss."""

    @validates
    def __init__(
        self, num_classes: int, embedding_size: int, temperature: float = 0.05, **options: Unpack[Options]
    ) -> None:
        super().__init__(num_classes, embedding_size, {"temperature": temperature}, **options)


class CosFaceLoss(ProxyLoss, function=cosface, metric="inner", positive=("scale",)):
    """CosFace (margin=0.35, scale=64.0); see `losses.cosface`. It is expanded as ProxyNCALoss."""

    @validates
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.35,
        scale: float = 64.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_classes, embedding_size, {"margin": margin, "scale": scale}, **options)


class ArcFaceLoss(ProxyLoss, function=arcface, metric="inner", positive=("scale",)):
    """ArcFace (margin=0.5 radians, scale=64.0); see `losses.arcface`. It is expanded as ProxyNCALoss."""

    @validates
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.5,
        scale: float = 64.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_classes, embedding_size, {"margin": margin, "scale": scale}, **options)


class SubCenterArcFaceLoss(ProxyLoss, function=arcface, name="sub_center_arcface", metric="inner", positive=("scale",)):
    """SubCenter-ArcFace (sub_centers=3, margin=0.5 radians, scale=64.0): `losses.arcface` of `losses.nearest_center`.

    With expansion, the hardest point of the anchor's class is compared with the nearest sub-centre of every other
    class. There are no points between sub-centres.
    """

    @validates
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        sub_centers: int = 3,
        margin: float = 0.5,
        scale: float = 64.0,
        **options: Unpack[Options],
    ) -> None:
        self.per_class = as_whole(sub_centers, "sub_centers", least=1)  # the base class reads it
        super().__init__(num_classes, embedding_size, {"margin": margin, "scale": scale}, **options)

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The similarities to the nearest sub-centre of every class; an expanded table already holds them."""
        return nearest_center(super().compare(batch, statistics=statistics), self.per_class)


class SoftTripleLoss(
    ProxyLoss,
    function=soft_triple,
    metric="inner",
    positive=("scale", "gamma"),
    monotone=False,
    not_expandable="a class is a weighted sum over its centres, which a single hardest pair cannot represent",
):
    """SoftTriple (centers_per_class=10, margin=0.01, scale=20.0, gamma=0.1, tau=0.2); see `losses.soft_triple`.

    tau is the weight of a regulariser that merges superfluous centres of a class: tau / (C K (K - 1)) times the sum of
    the distances between any two centres of the same class, for C classes with K centres each.
    """

    @validates
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        centers_per_class: int = 10,
        margin: float = 0.01,
        scale: float = 20.0,
        gamma: float = 0.1,
        *,
        tau: float = 0.2,
        **options: Unpack[Options],
    ) -> None:
        # Set first, because the base class reads it.
        self.per_class = as_whole(centers_per_class, "centers_per_class", least=1)
        given = {"margin": margin, "scale": scale, "gamma": gamma}
        super().__init__(num_classes, embedding_size, given, **options)
        self.tau = as_number(tau, "tau of SoftTripleLoss", least=0)

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """What each anchor adds; the regulariser of the centres is a second mean, equal for all anchors."""
        terms = soft_triple(pairs, **self.parameters_of_function, centers_per_class=self.per_class)
        if self.tau == 0 or self.per_class == 1:
            return terms
        is_whole = self.normalize and batch.per_class == self.per_class
        spread = (
            (self.tau * self.spread(batch.gallery if is_whole else None))
            .to(terms.total.dtype)
            .expand(1, terms.total.shape[1])
        )
        return Terms(torch.cat([terms.total, spread]), torch.cat([terms.weight, torch.ones_like(spread)]))

    def spread(self, unit: Float[Tensor, "g d"] | None = None) -> Float[Tensor, ""]:
        """The sum of the distances between any two centres of the same class, divided by C K (K - 1).

        `unit` are the centres, already normalised.
        """
        unit = functional.normalize(self.proxies, dim=1) if unit is None else unit
        centers = unit.view(self.num_classes, self.per_class, -1)
        apart = distance(centers @ centers.mT).triu(1)
        return apart.sum() / (len(self.proxies) * (self.per_class - 1))

    def extra_repr(self) -> str:
        """The parameters of the loss function, and tau."""
        return f"{super().extra_repr()}, tau={self.tau}"


class ProxyAnchorLoss(ProxyLoss, function=proxy_anchor, metric="inner", positive=("alpha",)):
    """Proxy-Anchor (margin=0.1, alpha=32.0); see `losses.proxy_anchor`, and `ProxyLoss` for the other arguments.

    The anchors are the proxies, which are compared with the whole batch. `rows` and `from_memory` therefore have no
    effect, and `per_anchor` returns the terms of the proxies. With expansion, every other class of the batch pushes a
    proxy by its hardest point, original or synthetic.
    """

    @validates
    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        margin: float = 0.1,
        alpha: float = 32.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(num_classes, embedding_size, {"margin": margin, "alpha": alpha}, **options)

    def with_anchors(self, batch: Batch) -> Batch:
        """The batch with the proxies as the anchors and its rows as the gallery."""
        return batch.swapped() if len(batch.labels) else batch
