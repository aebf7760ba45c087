"""Symmetrical Synthesis: each of two embeddings of a class is reflected about the other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from embedding_expansion.checks import as_number, validates
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.errors import InvalidInput
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.rows import two_by_two
from embedding_expansion.generation.tables import read, rows_of, similarity

_LOSSES = ("n_pair", "triplet", "lifted_structure", "angular")
_COMBINATIONS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


class SymmetricalSynthesis(Method, name="symmetrical"):
    """Symmetrical Synthesis: a loss whose negatives are the most similar points of two classes, reflections included.

    The images of a class are taken two at a time, as a and p. Reflecting p about the direction u of a gives
    q = beta (alpha r - p) with r = (p.u) u, which has the norm of p; reflecting a about p gives a fourth point. For
    every two such pairs of different classes, the negative is the most similar of their points.

    With N-pair, of embeddings that are not normalised, the similarities of pairs i and j are the elementwise maximum of
    the matrices of the six combinations of two kinds of points (a and p, a and q, ...), in a cross-entropy over j, plus
    0.25 l2 (mean |a|^2 + mean |p|^2).

    Args:
        loss: an `NPairLoss` (with normalize=False as in the paper), `TripletLoss`, `LiftedStructureLoss` or
            `AngularLoss`.
        alpha, beta: of the reflection.
        l2: the weight of the norms, with N-pair and without normalisation.
        easiest_positive: with N-pair, whether the maximum covers the diagonal too, as in the authors' program. The
            positive is then the easiest of the six. By default it is the similarity of a and p.
        reflect: False leaves the reflections out.

    Source: Gu & Ko, "Symmetrical Synthesis for Deep Metric Learning", AAAI 2020, and its program. Differs from the
    source: classes may have any even number of images; pairs of the same class are no negatives of each other. Angular
    loss is of normalised embeddings.
    """

    @validates
    def __init__(
        self,
        loss: PairLoss,
        alpha: float = 2.0,
        beta: float = 1.0,
        l2: float = 0.002,
        easiest_positive: bool = False,
        reflect: bool = True,
    ) -> None:
        super().__init__(loss)
        if getattr(type(loss), "name", "") not in _LOSSES:
            raise InvalidInput(
                f"loss is a {type(loss).__name__}; pass an NPairLoss, TripletLoss, LiftedStructureLoss or AngularLoss"
            )
        self.alpha, self.beta, self.l2 = (
            as_number(alpha, "alpha"),
            as_number(beta, "beta"),
            as_number(l2, "l2", least=0),
        )
        self.easiest_positive, self.reflect = bool(easiest_positive), bool(reflect)

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The loss of the pairs and their reflections."""
        pairs = two_by_two(labels)
        of_class = labels[pairs[:, 0]]
        points = self._points(rows_of(self.loss, embeddings)[pairs])
        is_n_pair = type(self.loss).name == "n_pair"
        value = (self._n_pair if is_n_pair else self._of_hardest)(points, of_class[:, None] != of_class)
        return {"metric": Objective(value, (NETWORK, "loss"))}

    def _points(self, pairs: Float[Tensor, "q 2 d"]) -> Float[Tensor, "q k d"]:
        if not self.reflect:
            return pairs
        units = functional.normalize(pairs.flip(1), dim=2)
        along = (pairs * units).sum(dim=2, keepdim=True) * units
        return torch.cat([pairs, self.beta * (self.alpha * along - pairs)], dim=1)

    def _n_pair(self, points: Float[Tensor, "q k d"], others: Tensor) -> Tensor:
        kinds = points.unbind(dim=1)
        combined = [kinds[i] @ kinds[j].T for i, j in _COMBINATIONS if j < len(kinds)]
        table = torch.stack(combined).amax(dim=0)
        diagonal = (table if self.easiest_positive else combined[0]).diagonal()
        value = read(self.loss, diagonal[:, None], table, others)
        if self.loss.normalize:
            return value
        return value + 0.25 * self.l2 * points[:, :2].square().sum(dim=(0, 2)).sum() / max(len(points), 1)

    def _of_hardest(self, points: Float[Tensor, "q k d"], others: Tensor) -> Tensor:
        metric = self.loss.metric
        every = similarity(points[:, None, :, None], points[None, :, None], metric)
        hardest = every.amax(dim=(2, 3)).repeat_interleave(2, dim=0)  # a row for each end of a pair
        positive = similarity(points[:, 0], points[:, 1], metric).repeat_interleave(2)
        return read(self.loss, positive[:, None], hardest, others.repeat_interleave(2, dim=0), per_class=True)
