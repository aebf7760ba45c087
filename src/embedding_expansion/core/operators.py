"""The search as operators of torch, for torch.compile: their sizes depend on the labels, and they are no tensor code.

Nothing but tensors and plain values passes into an operator or out of it, so the plan is made again in the backward
pass, from the labels.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import torch
from torch import Tensor

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.mining import Mined, find, gradient, synthetic_share
from embedding_expansion.core.plan import plan_of
from embedding_expansion.core.search.problem import HardestPairs, Rules
from embedding_expansion.core.sides import Scope

INFINITY = -1  # as n, which is passed as a whole number


def mine(
    batch: Batch, rules: Rules, scope: Scope, max_segments: int | None, *, partners: bool, statistics: bool
) -> Mined:
    """As `mining.mine`."""
    n = INFINITY if math.isinf(rules.n) else rules.count
    gallery = (batch.gallery, batch.gallery_labels) if batch.has_reference else (None, None)
    given = (batch.embeddings, batch.labels, batch.anchors, batch.past, *gallery)
    positive, value, _, _, positive_mask, negative_mask, partner, groups, order, share = _mine(
        *given, batch.proxies, n, rules.normalize, rules.metric, scope, max_segments, partners
    )
    with_partner = partner if partners and scope == "anchor" else None
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
    past: Tensor | None,
    gallery: Tensor | None,
    gallery_labels: Tensor | None,
    proxies: Any,
) -> Batch:
    has_reference = gallery is not None and gallery_labels is not None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = embeddings, labels
    sides = embeddings, labels, anchors, past, gallery, gallery_labels
    return Batch(*sides, has_reference=has_reference, every_row=False, proxies=proxies)


def _rules(n: int, normalize: bool, metric: Any) -> Rules:
    return Rules(math.inf if n == INFINITY else n, normalize, metric)


@torch.library.custom_op("embedding_expansion::mine", mutates_args=())
@no_type_check  # a checked function has no signature to read
def _mine(
    embeddings: Tensor,
    labels: Tensor,
    anchors: Tensor,
    past: Tensor | None,
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
    batch = _batch(embeddings, labels, anchors, past, gallery, gallery_labels, proxies)
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
    """What is found where there is no anchor: one column, as in `nothing_to_compare`.

    Sizes are those of the fake below, which has one row for a partner, one group and one column at least.
    """
    r = 1 if partners and scope == "anchor" else 0
    g = r if scope == "anchor" else 1
    shapes = (0, 1), (g, 1), (g, 1, 4), (g, 1, 2), (0, 1), (r, 1)
    positive, value, ends, weights, positive_mask, negative_mask = (embeddings.new_zeros(shape) for shape in shapes)
    partner = labels.new_zeros((0, 1) if r else (0,))
    at = labels.new_zeros(r), labels.new_zeros(1)
    masks = positive_mask.bool(), negative_mask.bool()
    return positive, value, ends.int(), weights, *masks, partner, *at, embeddings.new_zeros(())


@_mine.register_fake
def _(  # type: ignore[no-untyped-def]
    embeddings,
    labels,
    anchors,
    past,
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
    r = size(min=1) if partners and scope == "anchor" else a
    g = r if scope == "anchor" else size(min=1)
    whole = [(a, p), (r, c), (a, p) if partners and scope == "anchor" else (0,), (r,), (c,)]
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


@torch.library.custom_op("embedding_expansion::mine_back", mutates_args=())
@no_type_check  # a checked function has no signature to read
def _mine_back(
    of_positive: Tensor,
    of_value: Tensor,
    value: Tensor,
    ends: Tensor,
    weights: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    anchors: Tensor,
    past: Tensor | None,
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
    batch = _batch(embeddings, labels, anchors, past, gallery, gallery_labels, proxies)
    plan = plan_of(batch, scope, max_segments, partners=partners)
    found = HardestPairs(ends, weights, value, half=plan.symmetric)
    rules = _rules(n, normalize, metric)
    to_embeddings, to_gallery = gradient(embeddings, gallery, plan, rules, found, of_positive, of_value)
    return to_embeddings, embeddings.new_zeros(0) if to_gallery is None else to_gallery


@_mine_back.register_fake
def _(of_positive, of_value, value, ends, weights, embeddings, labels, anchors, past, gallery, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(embeddings), embeddings.new_empty(0) if gallery is None else torch.empty_like(gallery)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, value, ends, weights, *_ = output
    ctx.save_for_backward(value, ends, weights, *inputs[:6])
    ctx.options = inputs[6:]


def _back(ctx: Any, of_positive: Tensor, of_value: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    to_embeddings, to_gallery = _mine_back(of_positive, of_value, *ctx.saved_tensors, *ctx.options)
    has_gallery = ctx.saved_tensors[7] is not None
    return to_embeddings, None, None, None, to_gallery if has_gallery else None, *[None] * 8


_mine.register_autograd(_back, setup_context=_keep)
