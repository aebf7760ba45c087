"""The search for the hardest pairs with torch alone, a bounded piece of the expanded table at a time.

It runs wherever torch does, and where the native kernel is not there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from embedding_expansion.core.search import arcs, points
from embedding_expansion.core.search.candidates import Block, Hardest, Offer
from embedding_expansion.core.search.problem import Found, Problem, Rules
from embedding_expansion.core.sides import Side

LIMIT = 1 << 20  # entries that are looked at at a time: what a core's cache holds
Kind = TypeVar("Kind", bound=Offer)


def search(problem: Problem) -> Found:
    """The hardest pairs; the first of equals wins, originals before synthetic points."""
    with torch.autocast(problem.product.device.type, enabled=False):
        if math.isinf(problem.rules.n):
            return _search(problem, arcs.offers, arcs.hardest)
        return _search(problem, points.offers, points.hardest)


def _search(
    problem: Problem,
    offers: Callable[[Side, Tensor, Rules], Iterator[Kind]],
    hardest: Callable[[Block, Kind, Kind], Hardest],
) -> Found:
    left, right, product = problem.left, problem.right, problem.product
    shape = len(left.size), len(right.size)
    ends = torch.zeros(*shape, 4, dtype=torch.int32, device=product.device)
    weights, value = product.new_ones(*shape, 2), product.new_zeros(*shape)
    ours = list(offers(left, problem.left_gram, problem.rules))
    for b in offers(right, problem.right_gram, problem.rules):
        for a in ours:
            if problem.symmetric and a.groups.start > b.groups.start:
                continue
            for block in _blocks(problem, a, b):
                found = hardest(block, a, b)
                at = _moved(block.rows, a), _moved(block.columns, b)
                for k, side, index in ((0, a, found.left), (1, b, found.right)):
                    ends[at][..., 2 * k : 2 * k + 2] = side.ends.int()[index]
                value[at] = (
                    _within_norms(problem, found.value, ends[at], at) if problem.rules.normalize else found.value
                )
                weights[at] = torch.stack([found.left_weight, found.right_weight], dim=-1)
    if problem.symmetric:
        value = value.triu() + value.triu(1).T
    value = value.masked_fill(left.label[:, None] == right.label, 0)
    return Found(ends, weights, value, half=problem.symmetric)


def _within_norms(problem: Problem, value: Tensor, ends: Tensor, at: tuple[slice, slice]) -> Tensor:
    """Inner products with points that are normalised again, no larger than the norms: a nearly cancelled sum rounds.

    The gradient takes no notice: it is that of the quotient, which the limit only brings nearer to what it stands for.
    """
    limit: Tensor | float = 1.0
    shift: Tensor | float = 0.0
    synthetic = torch.zeros_like(value, dtype=torch.bool)
    sides = (problem.left, problem.left_gram, (-1, 1)), (problem.right, problem.right_gram, (1, -1))
    for k, (side, own, shape) in enumerate(sides):
        first, again = ends[..., 2 * k], ends[..., 2 * k] != ends[..., 2 * k + 1]
        start, size = (entry[at[k]].view(shape) for entry in (side.layout.gram_at, side.size))
        square = own[start + first * (size + 1)]
        limit = limit * torch.where(again, 1, square)
        shift = shift + torch.where(again, 0, (1 - square) / 2) if problem.rules.metric == "euclidean" else shift
        synthetic |= again
    limit = torch.as_tensor(limit).sqrt()
    return torch.where(synthetic, torch.clamp(value - shift, -limit, limit) + shift, value)


def _moved(groups: slice, offer: Offer) -> slice:
    return slice(offer.groups.start + groups.start, offer.groups.start + groups.stop)


def _blocks(problem: Problem, a: Offer, b: Offer) -> Iterator[Block]:
    """As many groups of the right at a time as the limit allows; only half of all pairs where it is symmetric."""
    count, others = (offer.groups.stop - offer.groups.start for offer in (a, b))
    step = max(1, LIMIT // max(1, count * len(a.ends) * len(b.ends)))
    same = problem.symmetric and a.groups == b.groups
    for first in range(0, others, step):
        columns = slice(first, min(others, first + step))
        rows = slice(0, columns.stop if same else count)
        members = problem.left.member[a.members][: rows.stop * a.k]
        across = slice(b.members.start + columns.start * b.k, b.members.start + columns.stop * b.k)
        product = problem.product[:, across].index_select(0, members)
        product = product.view(rows.stop, a.k, columns.stop - columns.start, b.k)
        yield Block(product, rows, columns, problem.rules, LIMIT)
