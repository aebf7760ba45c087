"""The module that expands any pair loss."""

from __future__ import annotations

from typing import Any

from jaxtyping import Int
from torch import Tensor

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.expanding import Expansion, expand_batch
from embedding_expansion.core.inputs import Labels, validates
from embedding_expansion.core.interop.metric_learning.loss import adapted
from embedding_expansion.core.interop.sentence_transformers import ExpandedBatchLoss, is_sentence_loss
from embedding_expansion.core.pair_loss import OPTIONS, PairLoss
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.sides import Scope
from embedding_expansion.core.terms import Terms
from embedding_expansion.errors import InvalidInput, InvalidType, UnknownName


class EmbeddingExpansion(PairLoss):
    """A pair loss whose negatives are the hardest pairs of original and synthetic points of every two classes.

    Args:
        loss: an instance of one of the pair losses, or a loss of pytorch-metric-learning, of which
            docs/from-pytorch-metric-learning.md says which work.
        n: synthetic points per pair of a class, a whole number; 0 is mining without synthetic points, `math.inf` the
            whole arc between the pair, exactly.
        scope: "class_pair", the paper's formula, or "anchor", the authors' released program; see `expand`.
        normalize_synthetic: L2-normalise the synthetic points.
        max_segments: expand at most so many pairs of a class; see `expand`.
        **options: normalize, reduction, ignore_index, check_finite, miner, chunk, statistics as in PairLoss; by default
            the loss's own.

    Raises:
        InvalidInput, InvalidType, UnknownName: if an option or a batch cannot be used.

    Source: Ko & Gu, "Embedding Expansion: Augmentation in Embedding Space for Deep Metric Learning", CVPR 2020. Differs
    from the source: see `expand`.

    Example:
        >>> from embedding_expansion import TripletLoss
        >>> loss = EmbeddingExpansion(TripletLoss(margin=0.2), n=2)
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 2.0], [-0.6, 0.8]], requires_grad=True)
        >>> loss(embeddings, [0, 0, 1, 1]).item() > TripletLoss(margin=0.2)(embeddings, [0, 0, 1, 1]).item()
        False
    """

    @validates
    def __new__(cls, loss: Any = None, *expansion: Any, **options: Any) -> Any:
        """A loss of sentence-transformers takes texts, not embeddings: what it becomes does so as well."""
        return ExpandedBatchLoss(loss, *expansion, **options) if is_sentence_loss(loss) else super().__new__(cls)

    @validates
    def __init__(
        self,
        loss: Any,
        n: int | float = 2,
        scope: Scope = "class_pair",
        normalize_synthetic: bool = True,
        max_segments: int | None = None,
        **options: Any,
    ) -> None:
        if isinstance(loss, type):
            raise InvalidType(f"loss is the class {loss.__name__}; pass an instance, {loss.__name__}()")
        foreign = adapted(loss, scope, options)
        loss = loss if foreign is None else foreign
        if isinstance(loss, EmbeddingExpansion) or not isinstance(loss, PairLoss):
            raise InvalidType(
                f"loss is a {type(loss).__name__}; pass one of this package's pair losses, e.g. TripletLoss(), or "
                "one of pytorch-metric-learning's"
            )
        if loss.not_expandable:
            raise InvalidInput(f"{type(loss).__name__} cannot be expanded: {loss.not_expandable}")
        expansion = Expansion.checked(n, scope, normalize_synthetic, loss.metric, max_segments)
        inherited = {option.name: getattr(loss, option.name) for option in OPTIONS}
        for name in options:
            if name not in inherited:
                raise UnknownName("option of EmbeddingExpansion", name, inherited)
        super().__init__(**{**inherited, **options})
        self.loss, self.expansion = loss, expansion

    @validates
    def reference(
        self, embeddings: Tensor, labels: Tensor, reference: Tensor | None, reference_labels: Labels | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """That of the loss that is expanded: its proxies, where it has some."""
        return self.loss.reference(embeddings, labels, reference, reference_labels)

    def oriented(self, batch: Batch) -> Batch:
        """As the loss that is expanded has it."""
        return self.loss.oriented(batch)

    def compare(self, batch: Batch) -> Pairs:
        """The expanded table."""
        partners = self.loss.reads_partner
        batch = self.loss.measured(batch)
        return expand_batch(batch, self.expansion, partners=partners, statistics=self.statistics)

    def columns(self, batch: Batch) -> Int[Tensor, " g"]:
        """A column a class."""
        return batch.classes.of_row

    @property
    def undivided(self) -> str:
        """Why the loss that is expanded has no terms per anchor; empty if it has."""
        return self.loss.undivided

    @property
    def has_statistic(self) -> bool:
        """Whether the loss that is expanded looks at the whole batch."""
        return self.loss.has_statistic

    def batch_statistic(self, pairs: Pairs) -> Tensor | None:
        """Of the loss that is expanded."""
        return self.loss.batch_statistic(pairs)

    def terms(self, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None) -> Terms:
        """What each anchor adds, by the loss that is expanded."""
        return self.loss.terms(pairs, anchor_labels, statistic)

    def read(
        self, batch: Batch, pairs: Pairs, anchor_labels: Int[Tensor, " a"], statistic: Tensor | None = None
    ) -> Terms:
        """The second step, by the loss that is expanded."""
        return self.loss.read(batch, pairs, anchor_labels, statistic)

    def extra_repr(self) -> str:
        """The parameters of the expansion."""
        given = self.expansion
        limit = "" if given.max_segments is None else f", max_segments={given.max_segments}"
        return f"n={given.n}, scope={given.scope!r}, normalize_synthetic={given.normalize_synthetic}{limit}"
