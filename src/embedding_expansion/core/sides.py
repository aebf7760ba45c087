"""The two sides of the search: the points that classes, or anchors, offer to mining.

A point is a weighted sum of two rows, so it is named by two members of its group and a weight, and never built.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.grouping import Classes, runs_of
from embedding_expansion.core.layout import Layout, class_layout
from embedding_expansion.errors import InvalidInput

Scope: TypeAlias = Literal["class_pair", "anchor"]
SCOPES: tuple[Scope, ...] = ("class_pair", "anchor")


@dataclass(frozen=True)
class Side:
    """Groups of rows: classes or, for the anchors of anchor scope, an anchor with its partner."""

    rows: Int[Tensor, " s"]  # rows of the batch that stand on this side, each once
    label: Int[Tensor, " g"]  # the class of each group; no pair is looked for within one
    layout: Layout
    barred: Bool[Tensor, " m"] | None = None  # members that may not be both ends of a point

    @property
    def member(self) -> Int[Tensor, " m"]:
        """Group by group, the place of each member in `rows`."""
        return self.layout.member

    @property
    def size(self) -> Int[Tensor, " g"]:
        """How many members each group has."""
        return self.layout.size

    @cached_property
    def short_label(self) -> Int[Tensor, " g"]:
        """The class of each group in 32 bits, as the native kernel reads it."""
        return self.label.int()

    def grams(self, embeddings: Float[Tensor, "s d"]) -> Float[Tensor, " o"]:
        """The Gram matrices of all groups, flattened one after another, from the embeddings of the side's rows."""
        parts = []
        for _, members, k, _ in self.layout.buckets:
            of_group = embeddings[self.member[members]].reshape(-1, k, embeddings.shape[1])
            parts.append((of_group @ of_group.mT).flatten())
        return torch.cat(parts)

    def by_size(self, grams: Float[Tensor, " o"]) -> Iterator[Float[Tensor, "g k k"]]:
        """Flattened Gram matrices as one block for each size of group, in the order of `layout.buckets`."""
        at = 0
        for groups, _, k, _ in self.layout.buckets:
            count = groups.stop - groups.start
            yield grams[at : at + count * k * k].reshape(count, k, k)
            at += count * k * k

    def grams_backward(self, gradient: Float[Tensor, " o"], embeddings: Float[Tensor, "s d"]) -> Tensor:
        """The backward pass of `grams`: the gradient of the rows' embeddings, (s, d)."""
        result = torch.zeros_like(embeddings)
        for (_, members, k, _), of_products in zip(self.layout.buckets, self.by_size(gradient), strict=True):
            of_group = embeddings[self.member[members]].reshape(-1, k, embeddings.shape[1])
            result.index_add_(0, self.member[members], ((of_products + of_products.mT) @ of_group).flatten(0, 1))
        return result


def interpolated(
    segments: Int[Tensor, "s 2"], n: int, dtype: torch.dtype
) -> tuple[Int[Tensor, "p 2"], Float[Tensor, "p 2"]]:
    """Ends and weights of the n inner points of every segment: (k x_i + (n + 1 - k) x_j) / (n + 1), k = 1..n."""
    k = torch.arange(1, n + 1, device=segments.device, dtype=torch.float64) / (n + 1)
    weights = torch.stack([k, 1 - k], dim=1).to(dtype)
    return segments.repeat_interleave(n, dim=0), weights.repeat(len(segments), 1)


def class_side(classes: Classes, *, scope: Scope, max_segments: int | None) -> Side:
    """All classes, by size: segments join every two rows, in anchor scope rows (0,1), (2,3), ... only."""
    runs = classes.runs
    layout = class_layout(runs, scope == "anchor", max_segments, classes.size.device)
    if len(runs) <= 1:
        return Side(classes.order, torch.arange(classes.size.shape[0], device=classes.size.device), layout)
    by_size = torch.argsort(classes.size, stable=True)
    shift = (classes.start[by_size] - layout.first).repeat_interleave(layout.size, output_size=layout.rows)
    return Side(classes.order[layout.member + shift], by_size, layout)


def some_classes(
    side: Side, chosen: Bool[Tensor, " c"], past: Bool[Tensor, " b"] | None, max_segments: int | None
) -> Side:
    """The anchors' side of class-pair scope: the classes chosen; past rows may not be both ends of a point."""
    if not bool(chosen.all()):
        keep = chosen[side.label]
        of_member = keep.repeat_interleave(side.size, output_size=len(side.member))
        layout = class_layout(runs_of(side.size[keep]), False, max_segments, side.rows.device)
        side = Side(side.rows[side.member[of_member]], side.label[keep], layout)
    return side if past is None else replace(side, barred=past[side.rows])


def anchor_side(classes: Classes, rows: Int[Tensor, " a"], every_row: Int[Tensor, " b"] | None) -> Side:
    """The anchors' side of anchor scope: each anchor, and the segment to its partner in the batch.

    Args:
        classes: of the batch.
        rows: the anchors.
        every_row: the order in which all rows of the batch stand on this side; by default only those needed do.
    """
    both = torch.stack([rows, rows ^ 1], dim=1).flatten()  # rows (0,1), (2,3), ... are partners
    standing = torch.unique(both) if every_row is None else every_row
    where = torch.empty_like(classes.order)
    where[standing] = torch.arange(len(standing), device=rows.device)
    segments = (torch.tensor([[0, 1]], device=rows.device),)
    return Side(standing, classes.of_row[rows], Layout(where[both], len(standing), ((2, len(rows)),), 1, segments))


def check_paired(labels: Int[Tensor, " b"]) -> None:
    """Raise InvalidInput unless rows (0,1), (2,3), ... are of one class each, as anchor scope reads them."""
    if len(labels) % 2:
        raise InvalidInput(
            f"anchor scope pairs rows (0,1), (2,3), ..., but the batch has {len(labels)} rows; pass an even number"
        )
    split = (labels[0::2] != labels[1::2]).nonzero().flatten()
    if len(split):
        i = 2 * int(split[0])
        raise InvalidInput(
            f"anchor scope pairs rows (0,1), (2,3), ..., but rows {i} and {i + 1} have the labels {int(labels[i])} and "
            f"{int(labels[i + 1])}; order the batch so that each pair is of one class, or use scope='class_pair'"
        )
