"""How a batch becomes an expanded table: the two sides, their inner products, the hardest pairs, and the `Pairs`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from embedding_expansion.core import mining, operators
from embedding_expansion.core.batch import Batch
from embedding_expansion.core.inputs import Labels, as_count, as_limit, as_past, check_name, validates
from embedding_expansion.core.mining import Winners
from embedding_expansion.core.pairs import Metric, Pairs, nothing_to_compare
from embedding_expansion.core.plan import plan_of
from embedding_expansion.core.search.problem import Rules
from embedding_expansion.core.sides import SCOPES, Scope

EXPANDABLE: tuple[Metric, ...] = ("euclidean", "inner")  # in which a similarity is told by inner products


@dataclass(frozen=True)
class Expansion:
    """What is a synthetic point, and what is hardest; the options of `expand`."""

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
        """The options, or an error that says which cannot be used."""
        check_name("scope", scope, SCOPES)
        check_name("metric", metric, EXPANDABLE)
        return cls(as_count(n), scope, normalize_synthetic, metric, as_limit("max_segments", max_segments))

    @property
    def rules(self) -> Rules:
        """What the search has to know."""
        return Rules(self.n, self.normalize_synthetic, self.metric)


def expand_batch(batch: Batch, expansion: Expansion, *, partners: bool, statistics: bool = False) -> Pairs:
    """The expanded table of a batch; `partners` as in `expand`, `statistics`: with the share of synthetic points."""
    if batch.is_empty:
        return nothing_to_compare(batch.embeddings)
    mine = operators.mine if torch.compiler.is_compiling() else mining.mine
    given = batch, expansion.rules, expansion.scope, expansion.max_segments
    found = mine(*given, partners=partners, statistics=statistics)
    value = found.value if found.order is None else found.value.index_select(1, found.order)
    return Pairs(
        positive=found.positive,
        positive_mask=found.positive_mask,
        negative=value if found.groups is None else value.index_select(0, found.groups),
        negative_mask=found.negative_mask,
        partner=found.partner,
        per_class=expansion.scope == "class_pair",
        synthetic_share=found.synthetic_share,
    )


@validates
def hardest_of_batch(
    embeddings: Float[Tensor, "b d"], labels: Labels, expansion: Expansion, past: Bool[Tensor, " b"] | None
) -> Winners:
    """The winners for all classes, or in anchor scope for all rows, whichever are anchors."""
    batch = Batch.checked(embeddings, labels, None, None, None, None)
    past = as_past(past, batch.embeddings)
    if batch.is_empty:
        none = batch.labels.new_zeros(0, 0, 2, 2)
        return Winners(none, none.to(batch.embeddings.dtype), none[..., 0].bool())
    batch = replace(batch, past=past if past is not None and bool(past.any()) else None)
    plan = plan_of(batch, expansion.scope, expansion.max_segments, partners=False)
    return mining.winners_of(plan, mining.find(batch.embeddings, None, plan, expansion.rules)[1])
