"""Mining: finds the hardest pair of points of every two groups from inner products, and differentiates it.

A point is a weighted sum of two rows. Every inner product that mining needs is therefore a small bilinear form of the
inner products of the rows: with weights W and products G, the expanded table is W G W^T. No point is built in d
dimensions.

`torch.compile` sees the search as custom operators, because its sizes depend on the labels and parts of it are not
tensor code. An operator takes and returns only tensors and plain values, so its backward pass makes the plan again from
the labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, no_type_check

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.checks import as_limit, check_name
from embedding_expansion.core.batch import Batch, Inputs
from embedding_expansion.core.custom_op import operator
from embedding_expansion.core.inputs import Labels, as_count, check_unit, validates
from embedding_expansion.core.numbers import read
from embedding_expansion.core.pairs import (
    Metric,
    Pairs,
    as_similarity,
    copies_at_one,
    nothing_to_compare,
    squared_norms,
)
from embedding_expansion.core.search import infinity, native, table, triton
from embedding_expansion.core.search.problem import SMALLEST_SQUARE, HardestPairs, Problem, Rules
from embedding_expansion.core.sides import Plan, plan_of
from embedding_expansion.errors import InvalidInput
from embedding_expansion.forms import SCOPES, Scope

EXPANDABLE: tuple[Metric, ...] = ("euclidean", "inner")  # the metrics that follow from inner products
Grams: TypeAlias = tuple[Tensor, Tensor]  # `left_gram` and `right_gram` of a Problem
INFINITY = -1  # encodes n = infinity in the custom operators, whose n is an integer


@dataclass(frozen=True)
class Expansion:
    """The options of `expand`: which synthetic points there are, and what "hardest" means."""

    n: int | float
    scope: Scope
    normalize_synthetic: bool
    metric: Metric
    max_segments: int | None

    @classmethod
    @validates
    def checked(
        cls, n: int | float, scope: Scope, normalize_synthetic: bool, metric: Metric, max_segments: int | None
    ) -> Expansion:
        """The options once checked; raises an error that names the first invalid one."""
        check_name("scope", scope, SCOPES)
        check_name("metric", metric, EXPANDABLE)
        return cls(as_count(n), scope, normalize_synthetic, metric, as_limit(max_segments, "max_segments"))

    @property
    def rules(self) -> Rules:
        """The part of the options that the search reads."""
        return Rules(self.n, self.normalize_synthetic, self.metric)


def expand_batch(batch: Batch, expansion: Expansion, *, partners: bool, statistics: bool = False) -> Pairs:
    """The expanded table of a batch.

    Args:
        batch: the checked batch.
        expansion: the options of the expansion.
        partners: as in `expand`.
        statistics: also compute the share of synthetic points.
    """
    if batch.is_empty:
        return nothing_to_compare(batch.embeddings)
    given = batch, expansion.rules, expansion.scope, expansion.max_segments
    found = mine(*given, partners=partners, statistics=statistics)
    return Pairs(
        positive=found.positive,
        positive_mask=found.positive_mask,
        negative=found.as_table(found.value),
        negative_mask=found.negative_mask,
        partner=found.partner,
        per_class=expansion.scope == "class_pair",
        synthetic_share=found.synthetic_share,
        speeds=None if found.speeds is None else (found.speeds[0], found.as_table(found.speeds[1])),
    )


@validates
def hardest_of_batch(
    embeddings: Float[Tensor, "b d"], labels: Labels, expansion: Expansion, from_memory: Bool[Tensor, " b"] | None
) -> Winners:
    """The winners for all classes or, in the other scopes, for all rows, including rows from a memory."""
    inputs = Inputs.checked(embeddings, labels, from_memory=from_memory)
    if inputs.from_memory is not None:
        inputs = replace(inputs, rows=torch.arange(len(inputs.labels), device=inputs.labels.device))
    batch = Batch.prepared(inputs, normalize=False, check=False)
    if batch.is_empty:
        none = batch.labels.new_zeros(0, 0, 2, 2)
        return Winners(none, none.to(batch.embeddings.dtype), none[..., 0].bool())
    _check_unit(batch.embeddings, None, expansion.rules)
    plan = plan_of(batch, expansion.scope, expansion.max_segments, partners=False)
    return winners_of(plan, find(batch.embeddings, None, plan, expansion.rules)[1])


@dataclass(frozen=True)
class Winners:
    """The hardest pair of points for every row l (a class, or in the other scopes an anchor) and every class c.

    The second to last axis of `ends` selects the point: 0 is the anchor's point, 1 the negative. For an original point
    both ends are its row, with weights (1, 0). Entries for the anchor's own class are meaningless.
    """

    ends: Int[Tensor, "l c 2 2"]  # rows of the batch (of the reference, for the negative, where there is one)
    weights: Float[Tensor, "l c 2 2"]  # of the interpolation, before a synthetic point is normalised again
    is_synthetic: Bool[Tensor, "l c 2"]


def search(problem: Problem) -> HardestPairs:
    """The hardest pairs: on a GPU in Triton, on the CPU for a finite n in C, and in torch where these are missing."""
    found = triton.search(problem) if math.isinf(problem.rules.n) else native.search(problem) or triton.search(problem)
    if found is not None:
        return found
    return infinity.search(problem) if math.isinf(problem.rules.n) else table.search(problem)


class Mined(NamedTuple):
    """The parts of an expanded table; shapes and meanings are as in `Plan` and `HardestPairs`."""

    positive: Float[Tensor, "a p"]  # similarities of the positives
    value: Float[Tensor, "g h"]  # of the hardest pairs
    positive_mask: Bool[Tensor, "a p"]
    negative_mask: Bool[Tensor, "r c"]
    partner: Int[Tensor, "a p"] | None
    groups: Int[Tensor, " r"] | None
    order: Int[Tensor, " c"] | None
    synthetic_share: Float[Tensor, ""] | None
    speeds: tuple[Float[Tensor, "a p"], Float[Tensor, "g h"]] | None = None  # as in `Pairs`

    def as_table(self, entries: Float[Tensor, "g h"]) -> Float[Tensor, "r c"]:
        """The entries of pairs of groups, arranged as the rows and columns of the table."""
        entries = entries if self.order is None else entries.index_select(1, self.order)
        return entries if self.groups is None else entries.index_select(0, self.groups)


def mine(
    batch: Batch, rules: Rules, scope: Scope, max_segments: int | None, *, partners: bool, statistics: bool
) -> Mined:
    """Plans and runs the search for a batch with anchors; `statistics` adds the share of synthetic points."""
    if torch.compiler.is_compiling():
        return _mine_by_operator(batch, rules, scope, max_segments, partners=partners, statistics=statistics)
    plan = plan_of(batch, scope, max_segments, partners=partners)
    gallery = batch.gallery if batch.has_reference else None
    if not batch.unit:
        _check_unit(batch.embeddings, gallery, rules, check=batch.check)
    product = batch.product if batch.keeps_product else None
    positive, value, ends, weights = Winning.apply(batch.embeddings, gallery, plan, rules, product)
    found = HardestPairs(ends, weights, value, half=plan.symmetric)
    share = synthetic_share(plan, found) if statistics else None
    masks = plan.positive_mask, plan.negative_mask
    speeds = None if batch.heights is None else _speeds(batch, plan, rules, found, batch.heights)
    return Mined(positive, value, *masks, plan.partner, plan.groups, plan.order, share, speeds)


def find(
    embeddings: Float[Tensor, "b d"],
    gallery: Float[Tensor, "g d"] | None,
    plan: Plan,
    rules: Rules,
    product: Float[Tensor, "b g"] | None = None,
) -> tuple[Float[Tensor, "a p"], HardestPairs, Grams]:
    """The similarities of the positives, the hardest pairs, and the Gram matrices of the groups.

    Without a gallery the batch is compared with itself. `product` holds the inner products where they are known.
    """
    left, right = plan.left, plan.right
    with torch.autocast(embeddings.device.type, enabled=False):
        x, y = _rows_of_sides(embeddings, gallery, plan)
        product = x @ y.T if product is None else _of_sides(product, plan)
        grams = _grams(plan, x, y, product)
        found = search(Problem(product, left, right, *grams, rules, plan.symmetric))
        positive = product.flatten().index_select(0, plan.entries.flatten()).view_as(plan.entries)
        if rules.metric == "euclidean":
            of_x = product.diagonal() if plan.same_rows else squared_norms(x)
            of_y = of_x if plan.same_rows else squared_norms(y)
            of_anchors = of_x.index_select(0, plan.anchors_at)[:, None]
            of_positives = of_y.index_select(0, plan.positives_at.flatten()).view_as(positive)
            positive = as_similarity(positive, of_anchors, of_positives, "euclidean")
            # The gradient needs no correction: at distance 0 it is 0.
            positive = copies_at_one(positive, of_anchors, "euclidean")
    return positive, found, grams


def _check_unit(embeddings: Tensor, gallery: Tensor | None, rules: Rules, *, check: bool = False) -> None:
    """Raises InvalidInput unless the rows are unit vectors where arcs join them; on a GPU only with `check`."""
    if rules.normalize and math.isinf(rules.n):
        remedy = "pass L2-normalised rows, normalize_synthetic=False, or a finite n"
        for rows in (embeddings,) if gallery is None else (embeddings, gallery):
            check_unit(rows, "n is infinity", remedy, check=check)


def _rows_of_sides(
    embeddings: Tensor, gallery: Tensor | None, plan: Plan
) -> tuple[Float[Tensor, "s d"], Float[Tensor, "t d"]]:
    """The embeddings of the left and the right rows."""
    x = embeddings.index_select(0, plan.left.rows)
    if plan.same_rows:
        return x, x
    return x, (embeddings if gallery is None else gallery).index_select(0, plan.right.rows)


def _of_sides(product: Float[Tensor, "b g"], plan: Plan) -> Float[Tensor, "s t"]:
    """The inner products of the left with the right rows, among those of all rows."""
    for dim, side in enumerate((plan.left, plan.right)):
        product = product if side.in_order(product.shape[dim]) else product.index_select(dim, side.rows)
    return product


def _grams(plan: Plan, x: Tensor, y: Tensor, product: Tensor | None) -> Grams:
    """The Gram matrices of the groups of both sides, read from `product` where it holds them."""
    if plan.same_rows and product is not None:
        left = product.flatten().index_select(0, plan.left.layout.gram_index)
        return left, left if plan.symmetric else product.flatten().index_select(0, plan.right.layout.gram_index)
    left = plan.left.grams(x)
    return left, left if plan.symmetric else plan.right.grams(y)


def gradient(
    embeddings: Float[Tensor, "b d"],
    gallery: Float[Tensor, "g d"] | None,
    plan: Plan,
    rules: Rules,
    found: HardestPairs,
    of_positive: Float[Tensor, "a p"],
    of_value: Float[Tensor, "l r"],
    grams: Grams | None = None,
    *,
    differentiable: bool = False,
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "g d"] | None]:
    """The backward pass of `find`: the gradients of the embeddings and of the gallery, with the winners held fixed.

    Args:
        embeddings: as in `find`.
        gallery: as in `find`.
        plan: as in `find`.
        rules: as in `find`.
        found: the hardest pairs.
        of_positive: the gradient of the similarities of the positives.
        of_value: the gradient of the values of the hardest pairs.
        grams: the Gram matrices; computed again where None.
        differentiable: use torch operations only, so that the result can be differentiated again.
    """
    left, right = plan.left, plan.right
    with torch.autocast(embeddings.device.type, enabled=False):
        x, y = _rows_of_sides(embeddings, gallery, plan)
        to_product = x.new_zeros(x.shape[0], y.shape[0])
        grams = _grams(plan, x, y, None) if grams is None else grams
        problem = Problem(to_product, left, right, *grams, rules, plan.symmetric)
        back = table.backward if differentiable else _backward_of(problem)
        to_left_gram, to_right_gram = back(problem, found, of_value.contiguous())
        to_product.view(-1).index_add_(0, plan.entries.flatten(), of_positive.flatten())
        to_squares = _to_squares(plan, to_product, of_positive) if rules.metric == "euclidean" else None
        if plan.same_rows:
            if to_squares is not None:
                to_product.diagonal().add_(to_squares[0] + to_squares[1])
            if plan.symmetric:
                to_product.view(-1).index_add_(0, left.layout.gram_index, to_left_gram + to_right_gram)
            else:
                to_product.view(-1).index_add_(0, left.layout.gram_index, to_left_gram)
                to_product.view(-1).index_add_(0, right.layout.gram_index, to_right_gram)
            whole = left.rows.shape[0] == embeddings.shape[0]
            result = torch.empty_like(embeddings) if whole else torch.zeros_like(embeddings)
            return result.index_copy_(0, left.rows, (to_product + to_product.T) @ x), None
        to_x, to_y = to_product @ y + left.grams_backward(to_left_gram, x), to_product.T @ x
        to_y += right.grams_backward(to_right_gram, y)
        if to_squares is not None:
            to_x += 2 * to_squares[0][:, None] * x
            to_y += 2 * to_squares[1][:, None] * y
        to_embeddings = torch.zeros_like(embeddings)
        to_gallery = to_embeddings if gallery is None else torch.zeros_like(gallery)
        to_embeddings.index_add_(0, left.rows, to_x)
        to_gallery.index_add_(0, right.rows, to_y)
    return to_embeddings, None if gallery is None else to_gallery


def _backward_of(problem: Problem) -> Any:
    """The backward pass of the search in the form that serves this problem."""
    if native.takes(problem.product):
        return native.backward
    # The kernel adds in any order.
    return (
        triton.backward
        if triton.takes(problem) and not torch.are_deterministic_algorithms_enabled()
        else table.backward
    )


def _to_squares(plan: Plan, to_product: Tensor, of_positive: Tensor) -> tuple[Float[Tensor, " s"], Float[Tensor, " t"]]:
    """The gradients of the squared norms of the left and the right rows, through 1 - d^2/2 of the positives."""
    half = of_positive / -2
    to_left, to_right = to_product.new_zeros(to_product.shape[0]), to_product.new_zeros(to_product.shape[1])
    to_left.index_add_(0, plan.anchors_at, half.sum(dim=1))
    return to_left, to_right.index_add_(0, plan.positives_at.flatten(), half.flatten())


class Winning(torch.autograd.Function):
    """`find` with its gradient. It saves the winners, and nothing that grows with the number of points.

    It is twice differentiable for a finite n, because the weights of the winners are then constants.
    """

    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, gallery: Tensor | None, plan: Plan, rules: Rules, product: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The similarities of the positives, and the values, ends and weights of the hardest pairs."""
        positive, found, grams = find(embeddings, gallery, plan, rules, product)
        ctx.save_for_backward(embeddings, gallery, found.ends, found.weights, found.value, *grams)
        ctx.plan, ctx.rules = plan, rules
        ctx.mark_non_differentiable(found.ends, found.weights)
        ctx.set_materialize_grads(False)
        return positive, found.value, found.ends, found.weights

    @staticmethod
    def backward(ctx: Any, of_positive: Tensor | None, of_value: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        """The gradients of the embeddings and of the gallery."""
        embeddings, gallery, ends, weights, value, *grams = ctx.saved_tensors
        again = torch.is_grad_enabled()
        if again and math.isinf(ctx.rules.n):
            raise InvalidInput(
                "a second derivative of an expansion with n=infinity is asked for (create_graph=True), but it is not "
                "defined because the points move along their arcs; use a finite n, or create_graph=False"
            )
        found = HardestPairs(ends, weights, value, half=ctx.plan.symmetric)
        of_value = torch.zeros_like(value) if of_value is None else of_value
        if of_positive is None:
            of_positive = value.new_zeros(ctx.plan.positives_at.shape)
        given = embeddings, gallery, ctx.plan, ctx.rules, found, of_positive, of_value
        return *gradient(*given, None if again else (grams[0], grams[1]), differentiable=again), None, None, None


def winners_of(plan: Plan, found: HardestPairs) -> Winners:
    """The winners as rows of the batch: class by class or, in the other scopes, row by class."""
    left, right, found = plan.left, plan.right, found.whole()
    sides = []
    for k, (side, shape) in enumerate(((left, (-1, 1, 1)), (right, (1, -1, 1)))):
        sides.append(side.rows[side.member[side.layout.first.view(shape) + found.ends[..., 2 * k : 2 * k + 2]]])
    rows = torch.arange(len(left.label), device=left.label.device) if plan.groups is None else left.label.argsort()
    at = rows[:, None], right.label.argsort()
    first_weight = found.weights[at][..., None]
    weights = torch.cat([first_weight, 1 - first_weight], dim=-1)
    return Winners(torch.stack(sides, dim=2)[at], weights, found.is_synthetic[at])


def synthetic_share(plan: Plan, found: HardestPairs) -> Float[Tensor, ""]:
    """The share of synthetic points among the points of the hardest pairs."""
    different = plan.left.label[:, None] != plan.right.label
    if found.half:
        different = different.triu()
    return (found.is_synthetic & different[..., None]).sum() / (2 * different.sum()).clamp(min=1)


def _speeds(
    batch: Batch, plan: Plan, rules: Rules, found: HardestPairs, heights: tuple[Tensor, Tensor]
) -> tuple[Float[Tensor, "a p"], Float[Tensor, "g h"]]:
    """`Pairs.speeds` of the positives and of the hardest pairs: the sums of the heights of both points."""
    found = found.whole()
    left, right = plan.left, plan.right
    with torch.no_grad(), torch.autocast(batch.embeddings.device.type, enabled=False):
        grams = _grams(plan, *_rows_of_sides(batch.embeddings, batch.gallery, plan), None)
    of_pairs = torch.zeros_like(found.value)
    for k, (side, gram, height, shape) in enumerate(
        ((left, grams[0], heights[0], (-1, 1)), (right, grams[1], heights[1], (1, -1)))
    ):
        first, size, at = (entry.view(shape) for entry in (side.layout.first, side.size, side.layout.gram_at))
        i, j = found.ends[..., 2 * k].long(), found.ends[..., 2 * k + 1].long()
        u = found.weights[..., k]
        of_member = height[side.rows[side.member]]
        point = u * of_member[first + i] + (1 - u) * of_member[first + j]
        if rules.normalize:
            same, mixed, other = gram[at + i * (size + 1)], gram[at + i * size + j], gram[at + j * (size + 1)]
            square = u * u * same + 2 * u * (1 - u) * mixed + (1 - u) ** 2 * other
            point = torch.where(i == j, point, point * square.clamp(min=SMALLEST_SQUARE[square.dtype]).rsqrt())
        of_pairs += point
    of_positives = heights[1][right.rows][plan.positives_at]
    return heights[0][batch.anchors][:, None] + of_positives, of_pairs


def _mine_by_operator(
    batch: Batch, rules: Rules, scope: Scope, max_segments: int | None, *, partners: bool, statistics: bool
) -> Mined:
    """`mine` in compiled code, through the custom operator."""
    n = INFINITY if math.isinf(rules.n) else int(rules.n)
    gallery = (batch.gallery, batch.gallery_labels) if batch.has_reference else (None, None)
    given = (batch.embeddings, batch.labels, batch.anchors, batch.from_memory, *gallery)
    positive, value, _, _, positive_mask, negative_mask, partner, groups, order, share = _mine_operator(
        *given, batch.proxies, n, rules.normalize, rules.metric, scope, max_segments, partners
    )
    with_partner = partner if partners and scope != "class_pair" else None
    return Mined(
        positive,
        value,
        positive_mask,
        negative_mask,
        with_partner,
        groups,
        order,
        share if statistics else None,
    )


def _batch(
    embeddings: Tensor,
    labels: Tensor,
    anchors: Tensor,
    from_memory: Tensor | None,
    gallery: Tensor | None,
    gallery_labels: Tensor | None,
    proxies: Any,
) -> Batch:
    has_reference = gallery is not None and gallery_labels is not None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = embeddings, labels
    for numbers in (labels, anchors, gallery_labels, *(() if from_memory is None else (from_memory,))):
        read(numbers)  # at most one wait for each new tensor of a GPU, where planning on it would wait often
    sides = embeddings, labels, anchors, from_memory, gallery, gallery_labels
    return Batch(*sides, has_reference=has_reference, every_row=False, proxies=proxies)


def _rules(n: int, normalize: bool, metric: Any) -> Rules:
    return Rules(math.inf if n == INFINITY else n, normalize, metric)


@operator("mine")
@no_type_check  # custom_op cannot read the signature of a function checked by jaxtyping
def _mine_operator(
    embeddings: Tensor,
    labels: Tensor,
    anchors: Tensor,
    from_memory: Tensor | None,
    gallery: Tensor | None,
    gallery_labels: Tensor | None,
    proxies: str | None,
    n: int,
    normalize: bool,
    metric: str,
    scope: str,
    max_segments: int | None,
    partners: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    if anchors.shape[0] == 0:
        return _nothing(embeddings, labels, scope, partners)
    _check_unit(embeddings, gallery, _rules(n, normalize, metric))
    batch = _batch(embeddings, labels, anchors, from_memory, gallery, gallery_labels, proxies)
    plan = plan_of(batch, scope, max_segments, partners=partners)
    positive, found, _ = find(embeddings, gallery, plan, _rules(n, normalize, metric))
    groups, order = (
        torch.arange(count, device=labels.device) if index is None else index
        for index, count in zip((plan.groups, plan.order), found.value.shape, strict=True)
    )
    partner = labels.new_zeros(0) if plan.partner is None else plan.partner
    masks = plan.positive_mask, plan.negative_mask
    share = synthetic_share(plan, found)
    return positive, found.value, found.ends, found.weights, *masks, partner, groups, order, share


def _nothing(embeddings: Tensor, labels: Tensor, scope: Scope, partners: bool) -> tuple[Tensor, ...]:
    """The operator's result for a batch without anchors: one column, as in `nothing_to_compare`.

    The sizes agree with the fake below, which has at least one row for a partner, one group and one column.
    """
    by_row = scope != "class_pair"
    r = 1 if partners and by_row else 0
    g = r if by_row else 1
    shapes = (0, 1), (g, 1), (g, 1, 4), (g, 1, 2), (0, 1), (r, 1)
    positive, value, ends, weights, positive_mask, negative_mask = (embeddings.new_zeros(shape) for shape in shapes)
    partner = labels.new_zeros((0, 1) if r else (0,))
    at = labels.new_zeros(r), labels.new_zeros(1)
    masks = positive_mask.bool(), negative_mask.bool()
    return positive, value, ends.int(), weights, *masks, partner, *at, embeddings.new_zeros(())


@_mine_operator.register_fake
def _(  # type: ignore[no-untyped-def]
    embeddings,
    labels,
    anchors,
    from_memory,
    gallery,
    gallery_labels,
    proxies,
    n,
    normalize,
    metric,
    scope,
    max_segments,
    partners,
):
    size = torch.library.get_ctx().new_dynamic_size
    a, p, c, h = anchors.shape[0], size(min=1), size(min=1), size(min=1)
    by_row = scope != "class_pair"
    r = size(min=1) if partners and by_row else a
    g = r if by_row else size(min=1)
    whole = [(a, p), (r, c), (a, p) if partners and by_row else (0,), (r,), (c,)]
    positives, negatives, partner, groups, order = (labels.new_empty(shape) for shape in whole)
    return (
        embeddings.new_empty(a, p),
        embeddings.new_empty(g, h),
        labels.new_empty(g, h, 4, dtype=torch.int32),
        embeddings.new_empty(g, h, 2),
        positives.new_empty(positives.shape, dtype=torch.bool),
        negatives.new_empty(negatives.shape, dtype=torch.bool),
        partner,
        groups,
        order,
        embeddings.new_empty(()),
    )


@operator("mine_back")
@no_type_check  # custom_op cannot read the signature of a function checked by jaxtyping
def _mine_operator_backward(
    of_positive: Tensor,
    of_value: Tensor,
    value: Tensor,
    ends: Tensor,
    weights: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    anchors: Tensor,
    from_memory: Tensor | None,
    gallery: Tensor | None,
    gallery_labels: Tensor | None,
    proxies: str | None,
    n: int,
    normalize: bool,
    metric: str,
    scope: str,
    max_segments: int | None,
    partners: bool,
) -> tuple[Tensor, Tensor]:
    if anchors.shape[0] == 0:
        return torch.zeros_like(embeddings), embeddings.new_zeros(0) if gallery is None else torch.zeros_like(gallery)
    batch = _batch(embeddings, labels, anchors, from_memory, gallery, gallery_labels, proxies)
    plan = plan_of(batch, scope, max_segments, partners=partners)
    found = HardestPairs(ends, weights, value, half=plan.symmetric)
    rules = _rules(n, normalize, metric)
    to_embeddings, to_gallery = gradient(embeddings, gallery, plan, rules, found, of_positive, of_value)
    return to_embeddings, embeddings.new_zeros(0) if to_gallery is None else to_gallery


@_mine_operator_backward.register_fake
def _(of_positive, of_value, value, ends, weights, embeddings, labels, anchors, from_memory, gallery, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(embeddings), embeddings.new_empty(0) if gallery is None else torch.empty_like(gallery)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, value, ends, weights, *_ = output
    ctx.save_for_backward(value, ends, weights, *inputs[:6])
    ctx.options = inputs[6:]


def _back(ctx: Any, of_positive: Tensor, of_value: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    to_embeddings, to_gallery = _mine_operator_backward(of_positive, of_value, *ctx.saved_tensors, *ctx.options)
    has_gallery = ctx.saved_tensors[7] is not None
    return to_embeddings, None, None, None, to_gallery if has_gallery else None, *[None] * 8


_mine_operator.register_autograd(_back, setup_context=_keep)
