"""The way back in torch: what the values of the hardest pairs, winners held fixed, pass on to inner products."""

from __future__ import annotations

import torch
from torch import Tensor

from embedding_expansion.core.search.problem import Found, Problem, Rules
from embedding_expansion.core.sides import Side

PIECE = 1 << 18  # pairs of groups at a time: memory is theirs, and more than a core's cache holds is slower


def pass_back(problem: Problem, found: Found, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Adds to `problem.product` what the gradient of the values passes on, and gives back that of each `own`."""
    left, right = problem.left, problem.right
    gradient = gradient.masked_fill(left.label[:, None] == right.label, 0)
    rows, columns = gradient.shape
    if problem.symmetric:  # a pair and the same turned round are one
        gradient = gradient + gradient.T
        g, h = torch.triu_indices(rows, columns, offset=1, device=gradient.device, dtype=torch.int32)
    else:
        g = torch.arange(rows, device=gradient.device, dtype=torch.int32).repeat_interleave(columns)
        h = torch.arange(columns, device=gradient.device, dtype=torch.int32).repeat(rows)
    to_left, to_right = torch.zeros_like(problem.left_gram), torch.zeros_like(problem.right_gram)
    for some_g, some_h in zip(g.split(PIECE), h.split(PIECE), strict=True):
        x, y = _pass_back(problem, found, gradient, some_g, some_h)
        to_left += x
        to_right += y
    return to_left, to_right


def _pass_back(problem: Problem, found: Found, gradient: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The same of some pairs of groups, g of the left and h of the right."""
    pair = g.long() * gradient.shape[1] + h  # more than 32 bits tell, where classes are many
    gradient, value = (entry.flatten().index_select(0, pair) for entry in (gradient, found.value))
    ends, weights = (entry.flatten(0, 1).index_select(0, pair).T for entry in (found.ends, found.weights))
    x = _Ends(problem.left, problem.left_gram, g, ends[:2], weights[0], problem.rules)
    y = _Ends(problem.right, problem.right_gram, h, ends[2:], weights[1], problem.rules)
    inner = value - x.shift - y.shift
    scaled = gradient * x.scale * y.scale
    flat, stride = problem.product.view(-1), problem.product.shape[1]
    for row, u in x.members:
        first, weight = row * stride, scaled * u
        for column, v in y.members:
            flat.index_add_(0, first + column, weight * v)
    return x.of_own(gradient, inner), y.of_own(gradient, inner)


class _Ends:
    """The winning points of one side: their members' places and weights, squared norms, scale and shift."""

    def __init__(self, side: Side, own: Tensor, group: Tensor, ends: Tensor, u: Tensor, rules: Rules) -> None:
        # Numbers of 32 bits: the arithmetic is bound by memory. There are less members than that, and less in `own`.
        per_group = side.layout.first, side.size, side.layout.gram_at
        first, size, at = (entry.int().index_select(0, group) for entry in per_group)
        i, j = ends
        self.own, v = own, 1 - u
        self.weights = (u * u, 2 * u * v, v * v)
        row = at + i * size
        self.places = (row + i, row + j, at + j * (size + 1))
        self.members = tuple((side.member.index_select(0, first + end), w) for end, w in ((i, u), (j, v)))
        norms = [own.index_select(0, place) for place in self.places]
        self.square = sum(norm * weight for norm, weight in zip(norms, self.weights, strict=True))
        self.again = (i != j) if rules.normalize else torch.zeros_like(i, dtype=torch.bool)
        self.scale = torch.where(self.again, self.square, 1).rsqrt()
        self.euclidean = rules.metric == "euclidean"
        self.shift = torch.where(self.again, 0, (1 - self.square) / 2) if self.euclidean else 0

    def of_own(self, gradient: Tensor, inner: Tensor) -> Tensor:
        """What the squared norms pass on to the inner products of each group with itself."""
        result = torch.zeros_like(self.own)
        unchanged = -gradient / 2 if self.euclidean else 0
        of_square = torch.where(self.again, -gradient * inner / (2 * self.square), unchanged)
        for place, weight in zip(self.places, self.weights, strict=True):
            result.index_add_(0, place, of_square * weight)
        return result
