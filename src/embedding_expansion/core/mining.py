"""Mining: the hardest pair of points of every two groups, found in inner products and read off them with gradient.

A point is a weighted sum of two rows, so every inner product that mining needs is a small bilinear form of the product
of the two sides: with W the weights, the expanded table is W G W^T. No point is built in d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from embedding_expansion.core import native, table_search
from embedding_expansion.core.problem import Found, Problem, Rules
from embedding_expansion.core.sides import Side


@dataclass(frozen=True)
class Winners:
    """The hardest pair of points for every row l (a class, or in anchor scope an anchor) and every class c.

    The last axis but one of `ends` names the point: 0 is the anchor's, 1 the negative. An original point is both ends,
    with weights (1, 0). The entries of the anchor's own class mean nothing.
    """

    ends: Int[Tensor, "l c 2 2"]  # rows of the batch (of the reference, for the negative, where there is one)
    weights: Float[Tensor, "l c 2 2"]  # of the interpolation, before a synthetic point is normalised again
    is_synthetic: Bool[Tensor, "l c 2"]


def search(problem: Problem) -> Found:
    """The hardest pairs: by the native kernel where it is there, else by looking at the whole expanded table."""
    return native.search(problem) if native.takes(problem.product) else table_search.search(problem)


class Winning(torch.autograd.Function):
    """The similarity of every hardest pair, its winner held fixed, and the product's entries at the positives.

    Keeps the winners and nothing that grows with the number of points. Once differentiable.
    """

    @staticmethod
    def forward(
        ctx: Any,
        product: Tensor,
        left_own: Tensor | None,
        right_own: Tensor | None,
        positives: Tensor,
        left: Side,
        right: Side,
        rules: Rules,
        symmetric: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The values (l, c), the positives' entries, and the winners' ends and weights."""
        own_index = None
        if left_own is None or right_own is None:  # both sides hold the same rows: the product has their norms
            stride = product.shape[1]
            own_index = left.own_index(stride), right.own_index(stride)
            left_own, right_own = (product.flatten()[index] for index in own_index)
        problem = Problem(product, left, right, left_own, right_own, rules, symmetric)
        found = search(problem)
        ctx.save_for_backward(left_own, right_own, positives, found.ends, found.weights, found.value)
        ctx.about = product.shape, own_index, left, right, rules, symmetric
        ctx.mark_non_differentiable(found.ends, found.weights)
        ctx.set_materialize_grads(False)
        return found.value, product.flatten()[positives], found.ends, found.weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, of_positives: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        """What the winners' ends and the positives get."""
        left_own, right_own, positives, ends, weights, value = ctx.saved_tensors
        shape, own_index, left, right, rules, symmetric = ctx.about
        to_product = torch.zeros(shape, dtype=value.dtype, device=value.device)
        gradient = torch.zeros_like(value) if gradient is None else gradient.contiguous()
        problem = Problem(to_product, left, right, left_own, right_own, rules, symmetric)
        pass_back = native.pass_back if native.takes(to_product) else table_search.pass_back
        to_left, to_right = pass_back(problem, Found(ends, weights, value, symmetric), gradient)
        flat = to_product.view(-1)
        if of_positives is not None:
            flat.index_add_(0, positives.flatten(), of_positives.flatten())
        if own_index is None:
            return to_product, to_left, to_right, None, None, None, None, None
        for index, part in zip(own_index, (to_left, to_right), strict=True):
            flat.index_add_(0, index, part)
        return to_product, None, None, None, None, None, None, None


def winners_of(found: Found, left: Side, right: Side, order: Int[Tensor, " l"]) -> Winners:
    """The winners in rows of the batch: of the left's groups in this order, of the right's in that of their classes."""
    found = found.whole()
    sides = []
    for k, (side, shape) in enumerate(((left, (-1, 1, 1)), (right, (1, -1, 1)))):
        sides.append(side.rows[side.member[side.first.view(shape) + found.ends[..., 2 * k : 2 * k + 2]]])
    at = order[:, None], torch.argsort(right.label)
    first_weight = found.weights[at][..., None]
    weights = torch.cat([first_weight, 1 - first_weight], dim=-1)
    return Winners(torch.stack(sides, dim=2)[at], weights, found.is_synthetic[at])
