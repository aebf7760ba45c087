"""Pairs of rows that the caller chooses: an indices tuple, as the miners of several libraries return it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidInput, InvalidType

IndicesTuple: TypeAlias = tuple[Int[Tensor, " _"], ...] | Any  # `Any`: other values get a readable error

TRIPLETS, PAIRS = ("anchors", "positives", "negatives"), ("anchors", "positives", "anchors", "negatives")
FORMS = "pass triplets (anchors, positives, negatives) or pairs (anchors, positives, anchors, negatives)"


@dataclass(frozen=True)
class ChosenPairs:
    """Positive and negative pairs. Anchors are rows of the batch; positives and negatives are rows of its gallery."""

    anchors: Int[Tensor, " k"]
    positives: Int[Tensor, " k"]
    of_negatives: Int[Tensor, " l"]  # the anchors of the negatives
    negatives: Int[Tensor, " l"]
    reach: int | None = None  # pairs with rows from this index on, those of a memory, are always kept

    @classmethod
    @validates
    def of(cls, chosen: IndicesTuple, device: torch.device) -> ChosenPairs:
        """Makes the pairs of an indices tuple. Triplets are split into their positive and negative pairs.

        Raises:
            InvalidInput, InvalidType: if it is not a tuple of pairs or triplets.
        """
        if callable(chosen):
            name = type(chosen).__name__
            raise InvalidType(
                f"indices_tuple is a {name}; pass what it chooses, {name}(...)(embeddings, labels), or give the loss "
                f"miner={name}(...) when it is made"
            )
        if not isinstance(chosen, (tuple, list)) or len(chosen) not in (3, 4):
            entries = f" of {len(chosen)} entries" if isinstance(chosen, (tuple, list)) else ""
            raise InvalidType(f"indices_tuple is a {type(chosen).__name__}{entries}; {FORMS}, or None for all pairs")
        names = TRIPLETS if len(chosen) == 3 else PAIRS
        rows = [_rows(name, entry, device) for name, entry in zip(names, chosen, strict=True)]
        for first, other in ((0, 1), (len(rows) - 2, len(rows) - 1)):
            if len(rows[first]) != len(rows[other]):
                raise InvalidInput(
                    f"indices_tuple has {len(rows[first])} {names[first]} but {len(rows[other])} {names[other]}; pass "
                    "tensors of equal length"
                )
        return cls(rows[0], rows[1], rows[-2] if len(rows) == 4 else rows[0], rows[-1])

    @validates
    def check(self, labels: Int[Tensor, " b"], of_others: Int[Tensor, " g"] | None) -> None:
        """Raises InvalidInput if rows are out of range, or pairs contradict the labels.

        Args:
            labels: the labels of the batch.
            of_others: the labels of the reference; None if the batch is compared with itself.
        """
        if torch.compiler.is_compiling():
            return
        others, where = (labels, "batch") if of_others is None else (of_others, "reference")
        sides = (("positives", self.anchors, self.positives), ("negatives", self.of_negatives, self.negatives))
        for name, anchors, rows in sides:
            _check_range("anchors", anchors, len(labels), "batch")
            _check_range(name, rows, len(others), where)
            of_anchor, of_row = labels[anchors], others[rows]
            wrong = (of_anchor == of_row) if name == "negatives" else (of_anchor != of_row)
            if bool(wrong.any()):
                at = int(wrong.nonzero()[0])
                raise InvalidInput(
                    f"indices_tuple has row {int(rows[at])} among the {name} of anchor {int(anchors[at])}, but their "
                    f"labels are {int(of_row[at])} and {int(of_anchor[at])}; mine with the labels that the loss gets"
                )
        if of_others is None and bool((self.anchors == self.positives).any()):
            row = int(self.anchors[self.anchors == self.positives][0])
            raise InvalidInput(f"indices_tuple pairs row {row} with itself; leave such pairs out")

    def without(self, ignored: Bool[Tensor, " b"], others_ignored: Bool[Tensor, " g"]) -> ChosenPairs:
        """The pairs without ignored rows, renumbered for the rows that remain."""
        place, others_place = ~ignored, ~others_ignored
        near = place[self.anchors] & others_place[self.positives]
        far = place[self.of_negatives] & others_place[self.negatives]
        place, others_place = place.cumsum(0) - 1, others_place.cumsum(0) - 1
        return ChosenPairs(
            place[self.anchors[near]],
            others_place[self.positives[near]],
            place[self.of_negatives[far]],
            others_place[self.negatives[far]],
        )


@validates
def _rows(name: str, given: Any, device: torch.device) -> Int[Tensor, " k"]:
    """Checks an entry of an indices tuple, and converts it to int64 on the device."""
    what = f"the {name} of indices_tuple"
    if not isinstance(given, Tensor):
        raise InvalidType(f"{what} are a {type(given).__name__}; pass a 1-D tensor of row numbers")
    if given.device.type == "meta":
        raise InvalidType(f"{what} are on the meta device and have no values; pass a tensor on the CPU or a GPU")
    if given.dim() != 1:
        raise InvalidInput(f"{what} are of shape {tuple(given.shape)}; pass a 1-D tensor of row numbers")
    if len(given) and (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool):
        raise InvalidType(f"{what} are of dtype {given.dtype}; pass whole numbers, which are rows of the batch")
    return given.to(device).long()


def _check_range(name: str, rows: Int[Tensor, " k"], count: int, where: str) -> None:
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise InvalidInput(
            f"the {name} of indices_tuple run from {int(rows.min())} to {int(rows.max())}; the {where} has rows 0 to "
            f"{count - 1}"
        )
