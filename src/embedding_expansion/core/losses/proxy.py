"""Losses on proxies, learnt points that stand for classes: Proxy-NCA, softmax and its margins, Proxy-Anchor.

The table is `compare(embeddings, labels, reference=proxies, reference_labels=...)`: an anchor's positives are the
proxies of its class, its negatives those of all others. Proxy-Anchor reads the same table turned round: the anchors are
the proxies, the reference is the batch.

Notation: s is a similarity of the table, d^2 = 2 - 2s; y is the anchor's class, z runs over the other classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    squared_distance,
)

SMALLEST_SQUARE = 1e-12  # of a sine, whose square root's slope is infinite at 0


def _own(pairs: Pairs) -> tuple[Float[Tensor, " a"], Bool[Tensor, " a"]]:
    """The similarity to the proxy of the anchor's class, the nearest of several; and whether there is one."""
    there = pairs.positive_mask.any(dim=1)
    nearest = torch.where(pairs.positive_mask, pairs.positive, -torch.inf).max(dim=1).values
    return torch.where(there, nearest, 0), there


def _cross_entropy(own: Float[Tensor, " a"], there: Bool[Tensor, " a"], pairs: Pairs, scale: float) -> Terms:
    """-log softmax of the own class among all, of similarities times scale: a mean over the anchors."""
    negative, negative_mask = negatives_of_anchors(pairs)
    against = masked_logsumexp(scale * negative, negative_mask)
    term = torch.where(there, functional.softplus(against - scale * own), 0)
    return Terms(term[None], there.to(term.dtype)[None])


def proxy_nca(pairs: Pairs, scale: float = 1.0, whole_softmax: bool = False) -> Terms:
    """Proxy-NCA: the mean over anchors of -log(exp(-scale d_y^2) / sum over z of exp(-scale d_z^2)).

    Args:
        pairs: anchors against proxies, one a class, metric "euclidean".
        scale: multiplies the squared distances (an inverse temperature).
        whole_softmax: the own class joins the sum, as in pytorch-metric-learning and in Proxy-NCA++.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy and which has a negative. They can be negative,
        but not with `whole_softmax`.

    Source: Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", ICCV 2017, equation 4 with
    proxies in place of points (section 3.2). Differs from the source: nothing; the source has no scale.
    """
    own, there = _own(pairs)
    negative, negative_mask = negatives_of_anchors(pairs)
    counts = there & negative_mask.any(dim=1)
    pull = scale * squared_distance(own)
    against = masked_logsumexp(-scale * squared_distance(negative), negative_mask)
    term = functional.softplus(pull + against) if whole_softmax else pull + against
    return Terms(torch.where(counts, term, 0)[None], counts.to(term.dtype)[None])


def normalized_softmax(pairs: Pairs, temperature: float = 0.05) -> Terms:
    """Normalised softmax: the mean over anchors of -log(exp(s_y / t) / (exp(s_y / t) + sum over z of exp(s_z / t))).

    Args:
        pairs: anchors against proxies, one a class, metric "inner".
        temperature: t; small is sharp.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy.

    Source: Zhai & Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019, section 3, the
    normalised softmax loss with a temperature. Differs from the source: the layer normalisation before it is the
    model's affair.
    """
    return _cross_entropy(*_own(pairs), pairs, 1 / temperature)


def cosface(pairs: Pairs, margin: float = 0.35, scale: float = 64.0) -> Terms:
    """CosFace, large margin cosine loss: softmax cross-entropy of scale * s_z against scale * (s_y - margin).

    Args:
        pairs: anchors against proxies, one a class, metric "inner", of unit rows.
        margin: on the cosine.
        scale: the norm to which embeddings are taken.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy.

    Source: Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, equation 4. Differs
    from the source: nothing.
    """
    own, there = _own(pairs)
    return _cross_entropy(own - margin, there, pairs, scale)


def arcface(pairs: Pairs, margin: float = 0.5, scale: float = 64.0) -> Terms:
    """ArcFace, angular margin loss: softmax cross-entropy of scale * s_z against scale * cos(angle_y + margin).

    Args:
        pairs: anchors against proxies, one a class, metric "inner", of unit rows.
        margin: on the angle, in radians.
        scale: the norm to which embeddings are taken.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy.

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, equation 3.
    Differs from the source: where the angle and the margin together exceed pi, and the cosine would rise again, it is
    s_y - margin sin(margin), as in the authors' program.
    """
    own, there = _own(pairs)
    cosine = own.clamp(-1, 1)
    sine = (1 - cosine.square()).clamp(min=SMALLEST_SQUARE).sqrt()
    widened = cosine * math.cos(margin) - sine * math.sin(margin)
    narrow_enough = cosine >= -math.cos(margin)  # angle <= pi - margin
    return _cross_entropy(torch.where(narrow_enough, widened, cosine - margin * math.sin(margin)), there, pairs, scale)


def nearest_center(pairs: Pairs, k: int) -> Pairs:
    """One similarity a class: that of the nearest of its k proxies.

    Args:
        pairs: anchors against the proxies of every class, those of a class together.
        k: proxies of a class.

    Returns:
        Pairs with one positive and one negative a class. `arcface` of them is SubCenter-ArcFace.

    Source: Deng et al., "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces", ECCV 2020,
    the max pooling over sub-centres. Differs from the source: nothing.
    """
    return _one_a_class(pairs, k, lambda similarity: similarity.max(dim=-1).values)


def soft_centers(pairs: Pairs, k: int, gamma: float = 0.1) -> Pairs:
    """One similarity a class: the mean over its k proxies, weighted by the softmax of their similarities / gamma.

    Args:
        pairs: anchors against the proxies of every class, those of a class together.
        k: proxies of a class.
        gamma: small prefers the nearest.

    Returns:
        Pairs with one positive and one negative a class. `cosface` of them is SoftTriple.

    Source: Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", ICCV 2019, the
    relaxed similarity of an example to a class. Differs from the source: nothing.
    """
    return _one_a_class(
        pairs, k, lambda similarity: (torch.softmax(similarity / gamma, dim=-1) * similarity).sum(dim=-1)
    )


def _one_a_class(pairs: Pairs, k: int, reading: Callable[[Tensor], Tensor]) -> Pairs:
    """The similarities to the k proxies of a class, read as one."""
    if len(pairs.positive) == 0:
        return pairs
    negative, negative_mask = negatives_of_anchors(pairs)
    return Pairs(
        positive=reading(pairs.positive)[:, None],
        positive_mask=pairs.positive_mask.any(dim=1, keepdim=True),
        negative=reading(torch.unflatten(negative, 1, (-1, k))),
        negative_mask=negative_mask[:, ::k],
        partner=None,
        per_class=pairs.per_class,
    )


def soft_triple(
    pairs: Pairs, margin: float = 0.01, scale: float = 20.0, gamma: float = 0.1, *, centers_per_class: int
) -> Terms:
    """SoftTriple: softmax cross-entropy of scale * S_z against scale * (S_y - margin), S as in `soft_centers`.

    Args:
        pairs: anchors against the k proxies of every class, those of a class together, metric "inner".
        margin: on the similarity (delta in the paper).
        scale: sharpness of the softmax over classes (lambda in the paper).
        gamma: of the softmax over a class's proxies; small prefers the nearest.
        centers_per_class: proxies of a class.

    Returns:
        Terms (1, a), weight 1 for every anchor whose class has a proxy.

    Source: Qian et al., "SoftTriple Loss: Deep Metric Learning Without Triplet Sampling", ICCV 2019, the
    loss of the title. Differs from the source: what draws a class's proxies together reads no similarity of the batch,
    so that it is a part of the module (`SoftTripleLoss`).
    """
    return cosface(soft_centers(pairs, centers_per_class, gamma), margin, scale)


def proxy_anchor(pairs: Pairs, margin: float = 0.1, alpha: float = 32.0) -> Terms:
    """Proxy-Anchor: every proxy pulls the batch's rows of its class and pushes the others, the hardest the most.

        mean over proxies with positives of log(1 + sum over P of exp(-alpha (s - margin)))
        + mean over all proxies of log(1 + sum over N of exp(alpha (s + margin)))

    Args:
        pairs: proxies, one a class, against the batch, metric "inner".
        margin: on the similarity (delta in the paper).
        alpha: sharpness.

    Returns:
        Terms of shape (2, a). The pull weighs the proxies of classes that are in the batch, the push all.

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
    """Proxy-NCA (scale=1.0, whole_softmax=False); see `losses.proxy_nca`, and ProxyLoss for the rest.

    Expanded, an anchor is pushed from every other class's proxy by the hardest point of its own class, original or
    synthetic, and pulled to its own proxy itself.
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
    """Normalised softmax (temperature=0.05); see `losses.normalized_softmax`. Expanded as ProxyNCALoss."""

    @validates
    def __init__(
        self, num_classes: int, embedding_size: int, temperature: float = 0.05, **options: Unpack[Options]
    ) -> None:
        super().__init__(num_classes, embedding_size, {"temperature": temperature}, **options)


class CosFaceLoss(ProxyLoss, function=cosface, metric="inner", positive=("scale",)):
    """CosFace (margin=0.35, scale=64.0); see `losses.cosface`. Expanded as ProxyNCALoss."""

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
    """ArcFace (margin=0.5 radians, scale=64.0); see `losses.arcface`. Expanded as ProxyNCALoss."""

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

    Expanded, the hardest point of the anchor's class is compared with the nearest sub-centre of every other class;
    there are no points between sub-centres.
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
        self.per_class = as_whole(sub_centers, "sub_centers", least=1)  # first: the proxies are made of it
        super().__init__(num_classes, embedding_size, {"margin": margin, "scale": scale}, **options)

    def compare(self, batch: Batch, *, statistics: bool) -> Pairs:
        """The similarities to the nearest sub-centre of every class. An expanded table has these already."""
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

    tau weighs what draws the centres of a class together where it needs fewer: tau / (C K (K - 1)) times the sum of the
    distances of any two centres of a class, for C classes of K centres each.
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
        # first: the proxies are made of it
        self.per_class = as_whole(centers_per_class, "centers_per_class", least=1)
        given = {"margin": margin, "scale": scale, "gamma": gamma}
        super().__init__(num_classes, embedding_size, given, **options)
        self.tau = as_number(tau, "tau of SoftTripleLoss", least=0)

    def terms(self, pairs: Pairs, batch: Batch, statistic: Tensor | None = None) -> Terms:
        """What each anchor adds; that of the centres is a mean of its own, to which every anchor adds the same."""
        terms = soft_triple(pairs, **self.parameters_of_function, centers_per_class=self.per_class)
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


class ProxyAnchorLoss(ProxyLoss, function=proxy_anchor, metric="inner", positive=("alpha",)):
    """Proxy-Anchor (margin=0.1, alpha=32.0); see `losses.proxy_anchor`, and ProxyLoss for the rest.

    The anchors are the proxies and the whole batch is what they are compared with, so `rows` and `past` change nothing,
    and reduction "none" gives the terms of the proxies. Expanded, every other class of the batch pushes a proxy with
    its hardest point, original or synthetic.
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
        """The proxies are the anchors, the batch is what they are compared with."""
        return batch.swapped() if len(batch.labels) else batch
