"""What a loss is called with, in this package's words or in those of pytorch-metric-learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from embedding_expansion.core.chosen import IndicesTuple
from embedding_expansion.core.inputs import Labels, validates
from embedding_expansion.errors import InvalidInput, InvalidType


@dataclass(frozen=True)
class Call:
    """The arguments of a call as they were given: `PairLoss.batch` checks them, and says what they must be."""

    embeddings: Any
    labels: Any
    rows: Any = None
    past: Any = None
    reference: Any = None
    reference_labels: Any = None
    indices_tuple: Any = None


@validates
def as_call(
    embeddings: Float[Tensor, "b d"],
    labels: Labels,
    indices_tuple: IndicesTuple | None,
    ref_emb: Float[Tensor, "g d"] | None,
    ref_labels: Labels | None,
    *,
    rows: Int[Tensor, " a"] | None = None,
    past: Bool[Tensor, " b"] | None = None,
    reference: Float[Tensor, "g d"] | None = None,
    reference_labels: Labels | None = None,
) -> Call:
    """The call; `ref_emb` and `ref_labels` are other names of `reference` and `reference_labels`."""
    for theirs, ours, names in (
        (ref_emb, reference, ("ref_emb", "reference")),
        (ref_labels, reference_labels, ("ref_labels", "reference_labels")),
    ):
        if theirs is not None and ours is not None:
            raise InvalidInput(f"{names[0]} and {names[1]} are both given, and mean the same; leave {names[0]} out")
    if labels is None:
        raise InvalidType(
            "labels is None; pass one whole number per row, as pairs are told by labels and indices_tuple only chooses "
            "among them"
        )
    reference = ref_emb if reference is None else reference
    reference_labels = ref_labels if reference_labels is None else reference_labels
    return Call(embeddings, labels, rows, past, reference, reference_labels, indices_tuple)
