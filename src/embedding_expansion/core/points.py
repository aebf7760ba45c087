"""The points that a class offers to mining, as sparse weights on its rows: they are never built in d dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.grouping import Classes
from embedding_expansion.errors import InvalidInput

Scope: TypeAlias = Literal["class_pair", "anchor"]
SCOPES: tuple[Scope, ...] = ("class_pair", "anchor")


@dataclass(frozen=True)
class Bucket:
    """Groups of k rows each that share one recipe of q points: the k originals, then the synthetic ones.

    A point is `weights[0] * x[ends[0]] + weights[1] * x[ends[1]]`, where the ends are positions among the group's
    members. A group is a class or, on the anchor's side of anchor scope, an anchor with its partner.
    """

    groups: Int[Tensor, " g"]  # the row or the column of the table of winners
    members: Int[Tensor, "g k"]  # rows of the batch
    ends: Int[Tensor, "q 2"]
    weights: Float[Tensor, "q 2"]
    originals: int  # the first points are originals

    @property
    def is_synthetic(self) -> Bool[Tensor, " q"]:
        """Which points are synthetic."""
        return torch.arange(len(self.ends), device=self.ends.device) >= self.originals

    @property
    def mixing(self) -> Float[Tensor, "q k"]:
        """The weights as a dense matrix that takes members to points."""
        dense = self.weights.new_zeros(len(self.ends), self.members.shape[1])
        return dense.scatter_add_(1, self.ends, self.weights)

    @property
    def rows(self) -> Int[Tensor, "g q 2"]:
        """The rows of the batch that each point lies between."""
        return self.members[:, self.ends]


def interpolated(
    segments: Int[Tensor, "s 2"], n: int, dtype: torch.dtype
) -> tuple[Int[Tensor, "p 2"], Float[Tensor, "p 2"]]:
    """Ends and weights of the n inner points of every segment: (k x_i + (n + 1 - k) x_j) / (n + 1), k = 1..n."""
    k = torch.arange(1, n + 1, device=segments.device, dtype=torch.float64) / (n + 1)
    weights = torch.stack([k, 1 - k], dim=1).to(dtype)
    return segments.repeat_interleave(n, dim=0), weights.repeat(len(segments), 1)


def recipe(
    originals: int, segments: Int[Tensor, "s 2"], n: int, dtype: torch.dtype
) -> tuple[Int[Tensor, "q 2"], Float[Tensor, "q 2"]]:
    """Ends and weights of a group's points: its first `originals` members, then what lies on the segments."""
    own = torch.arange(originals, device=segments.device)
    ends, weights = interpolated(segments, n, dtype)
    itself = torch.tensor([[1.0, 0.0]], dtype=dtype, device=segments.device).expand(originals, 2)
    return torch.cat([torch.stack([own, own], dim=1), ends]), torch.cat([itself, weights])


def class_points(classes: Classes, n: int, dtype: torch.dtype, *, scope: Scope) -> list[Bucket]:
    """The points of every class: segments join every two rows, in anchor scope rows (0,1), (2,3), ... only."""
    buckets = []
    for groups, members in classes.by_size():
        k = members.shape[1]
        if scope == "class_pair":
            segments = torch.triu_indices(k, k, offset=1, device=members.device).T
        else:
            segments = torch.arange(k, device=members.device).reshape(k // 2, 2)
        buckets.append(Bucket(groups, members, *recipe(k, segments, n, dtype), originals=k))
    return buckets


def anchor_points(rows: Int[Tensor, " a"], n: int, dtype: torch.dtype) -> list[Bucket]:
    """The points of every anchor in anchor scope: itself and n towards its partner in the batch."""
    members = torch.stack([rows, rows ^ 1], dim=1)  # rows (0,1), (2,3), ... are partners
    segment = torch.tensor([[0, 1]], device=rows.device)
    return [Bucket(torch.arange(len(rows), device=rows.device), members, *recipe(1, segment, n, dtype), originals=1)]


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
