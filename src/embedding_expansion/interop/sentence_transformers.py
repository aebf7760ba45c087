"""Adapters for sentence-transformers: expansion of its batch losses, and pair losses for its trainer.

This module recognises classes of the library by name, without importing the library.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from embedding_expansion.core.balance import Forces, checked_balance, figures, pull_share, read_twice
from embedding_expansion.core.batch import Batch, Inputs, widened
from embedding_expansion.core.inputs import Labels, as_batch, as_labels, check_unit, validates
from embedding_expansion.core.mining import Expansion, expand_batch
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.forms import DEFAULT, DEFAULT_N, Balance, Scope

Distance: TypeAlias = Literal["euclidean", "squared", "cosine"]
EMBEDDING = "sentence_embedding"  # the key of the embeddings in the output of a SentenceTransformer


class _Known(NamedTuple):
    """What is known about a batch loss of the library."""

    method: str  # the name of the method that computes the loss from labels and embeddings
    counts_negatives: bool  # whether a negative that occurs twice in the table counts twice


_LOSSES = {
    "BatchAllTripletLoss": _Known("batch_all_triplet_loss", counts_negatives=True),
    "BatchHardTripletLoss": _Known("batch_hard_triplet_loss", counts_negatives=False),
    "BatchHardSoftMarginTripletLoss": _Known("batch_hard_triplet_soft_margin_loss", counts_negatives=False),
    "BatchSemiHardTripletLoss": _Known("batch_semi_hard_triplet_loss", counts_negatives=False),
}


def adapted(loss: object, scope: str, options: dict[str, Any]) -> NoReturn:
    """Raises InvalidType, because such a loss takes texts and not embeddings, and cannot be adapted to a pair loss."""
    raise InvalidType(
        f"loss is a {type(loss).__name__} of sentence-transformers, which takes texts; use "
        "embedding_expansion.interop.sentence_transformers.ExpandedBatchLoss(loss, ...)"
    )


class ExpandedBatchLoss(nn.Module):
    """A batch loss of sentence-transformers whose negatives are the hardest pairs of points of each pair of classes.

    The loss reads its distances through `distance_metric`. This module replaces the distance of two texts of different
    classes with that of the hardest pair of original and synthetic points of the two classes. Distances within a class
    are unchanged. Each class is one negative. The losses on the hardest or a semi-hard negative may see this negative
    once per member of the class. `BatchAllTripletLoss`, a mean over triplets, sees it once; otherwise large classes
    would have more weight.

    Args:
        loss: a BatchAllTripletLoss, BatchHardTripletLoss, BatchHardSoftMarginTripletLoss or BatchSemiHardTripletLoss,
            with the Euclidean distance, plain or squared, or the cosine distance.
        n: synthetic points per pair of a class; 0 is mining without synthetic points. See `expand` for n, scope,
            normalize_synthetic and max_segments.
        scope: "class_pair", "anchor" or "negative".
        normalize_synthetic: L2-normalise the synthetic points. With a Euclidean distance the embeddings must then be
            unit vectors, because the library does not normalise them. The cosine distance requires True.
        max_segments: the largest number of pairs of a class to expand.
        balance: reduce the pull between positives where it would collapse the embeddings; see `EmbeddingExpansion`.
            The plain loss is that of the library on its own distances. "sphere" requires unit vectors.
        selective: a positive passes no gradient where a negative of its anchor is more similar; excludes `balance`.
        **options: not supported; any option raises an error with the alternative.

    Shapes: sentence_features as the library's collator makes them, of which the loss reads the first column; labels
    (b,), whole numbers; the result is a scalar.

    Raises:
        InvalidType: if loss is a class.
        InvalidInput: if the loss or its distance is not supported, or if the embeddings are not unit vectors although
            normalize_synthetic requires it.

    Attributes:
        last_statistics: after a balanced call, the figures of balance as in `PairLoss`, detached scalar tensors.

    With several processes, each process computes the loss of its texts, as the losses of the library do.

    Source: the losses are those of Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    and Schroff et al., "FaceNet", 2015, as implemented in sentence-transformers. Differs from the source: the
    negatives; see `expand`.
    """

    @validates
    def __init__(
        self,
        loss: nn.Module,
        n: int | float = DEFAULT_N,
        scope: Scope = DEFAULT.scope,
        normalize_synthetic: bool = True,
        max_segments: int | None = None,
        *,
        balance: Balance = DEFAULT.balance,
        selective: bool = DEFAULT.selective,
        **options: Any,
    ) -> None:
        super().__init__()
        if options:
            raise InvalidInput(
                f"{', '.join(options)} is given, but a loss of sentence-transformers takes texts and has no such "
                "options; use SentenceLoss(model, EmbeddingExpansion(...)) with a loss of this package"
            )
        if isinstance(loss, type):
            raise InvalidType(f"loss is the class {loss.__name__}; pass an instance, {loss.__name__}(model)")
        self.known = _known(loss)
        self.distance = _distance_of(loss)
        if self.distance == "cosine" and not normalize_synthetic:
            raise InvalidInput(
                "the loss has the cosine distance, which depends on directions only; leave normalize_synthetic at True"
            )
        metric: Any = "inner" if self.distance == "cosine" else "euclidean"
        self.expansion = Expansion.checked(n, scope, normalize_synthetic, metric, max_segments)
        self.balance, self.selective = checked_balance(balance, selective), selective
        self.last_statistics: dict[str, Tensor] = {}
        # The trainer replaces `model` by a wrapped model, such as that of DistributedDataParallel.
        self.model: Any = loss.sentence_embedder
        self.loss: Any = loss

    @validates
    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Int[Tensor, " b"]) -> Float[Tensor, ""]:
        """Embeds a batch of texts with the model, and computes the loss."""
        return self.of_embeddings(self.model(next(iter(sentence_features)))[EMBEDDING], labels)

    @validates
    def of_embeddings(self, embeddings: Float[Tensor, "b d"], labels: Labels) -> Float[Tensor, ""]:
        """Computes the loss of embeddings (b, d) with labels (b,)."""
        labels = labels.flatten() if isinstance(labels, Tensor) else as_labels(labels)
        embeddings, labels = as_batch(embeddings, labels)
        same = labels[:, None] == labels
        within, between, speeds = self._distances(embeddings, labels, same)
        if self.selective:
            nearest = between.detach().masked_fill(same, torch.inf).amin(dim=1, keepdim=True)
            within = torch.where(nearest < within, within.detach(), within)
        if self.balance and torch.is_grad_enabled() and within.requires_grad:
            share = self._share(torch.where(same, within, between), embeddings, labels, speeds)
            within.register_hook(lambda gradient: gradient * share)  # type: ignore[no-untyped-call]
        return self._value(torch.where(same, within, between), embeddings, labels)

    def table(self, embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]) -> Float[Tensor, "b b"]:
        """The distances that the loss reads: of the texts within a class, of the hardest pairs between classes."""
        same = labels[:, None] == labels
        within, between, _ = self._distances(embeddings, labels, same)
        return torch.where(same, within, between)

    def _value(self, table: Float[Tensor, "b b"], embeddings: Tensor, labels: Tensor) -> Tensor:
        """The value of the loss on a table of distances."""
        loss = copy.copy(self.loss)  # the caller's loss keeps its distance
        loss.distance_metric = lambda _: table
        value: Tensor = getattr(loss, self.known.method)(labels, embeddings)
        return value

    def _distances(
        self, embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"], same: Bool[Tensor, "b b"]
    ) -> tuple[Float[Tensor, "b b"], Float[Tensor, "b b"], tuple[Tensor, Tensor] | None]:
        """The distances of texts, those of the hardest pairs of the texts' classes, and the speeds of both on a sphere.

        The loss reads the former within a class, and the latter between classes.
        """
        embeddings = widened(embeddings)
        plain: Tensor = self.loss.distance_metric(embeddings)
        sphere = self.balance == "sphere"
        if self.distance == "cosine":
            embeddings = functional.normalize(embeddings, dim=1)
        elif sphere or (self.expansion.normalize_synthetic and self.expansion.n > 0):
            because = "this balance is defined for unit vectors" if sphere else "synthetic points are normalised"
            remedy = "end the model with Normalize(), or pass " + (
                "balance=True" if sphere else "normalize_synthetic=False"
            )
            check_unit(embeddings, because, remedy)
        batch = Batch.prepared(Inputs(embeddings, labels), normalize=False, check=False)
        batch = read_twice(batch, sphere=True, whole=False) if sphere else batch
        pairs, of_row = (
            expand_batch(batch, self.expansion, partners=False),
            torch.unique(labels, return_inverse=True)[1],
        )
        between = _as_distance(pairs.negative, self.distance)[:, of_row]
        if self.known.counts_negatives:
            between = torch.where(_repeats(same), torch.finfo(between.dtype).max / 2, between)
        if batch.heights is None or pairs.speeds is None:
            return plain, between, None
        of_plain = batch.heights[0][:, None] + batch.heights[0]
        return plain, between, (of_plain, torch.where(same, of_plain, pairs.speeds[1][:, of_row]))

    def _share(
        self, table: Tensor, embeddings: Tensor, labels: Tensor, speeds: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, ""]:
        """Lambda; see core/balance.py."""
        of_plain, of_expanded = (None, None) if speeds is None else speeds
        plain = self.loss.distance_metric(widened(embeddings.detach()))
        expanded = self._forces(table, embeddings, labels, of_expanded)
        unexpanded = self._forces(plain, embeddings, labels, of_plain)
        share = pull_share(expanded, unexpanded)
        self.last_statistics = figures(expanded, unexpanded, share)
        return share

    def _forces(self, table: Tensor, embeddings: Tensor, labels: Tensor, speeds: Tensor | None) -> Forces:
        """Pull and push of the loss on a table of distances.

        A contraction moves a similarity s by e (1 - s), hence a squared or cosine distance d by -e d, and d = sqrt(2 -
        2s) by -e d / 2.
        """
        table = table.detach().requires_grad_()
        value = self._value(table, embeddings.detach(), labels)
        gradient = torch.zeros_like(table)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, table, allow_unused=True, materialize_grads=True)
        moved = gradient * table.detach() * (0.5 if self.distance == "euclidean" else 1)
        moved = moved if speeds is None else moved * speeds
        same = labels[:, None] == labels
        return Forces(moved[same].sum(), -moved[~same].sum(), (~same).any())

    def get_config_dict(self) -> dict[str, Any]:
        """The options of the loss for the model card."""
        given = self.expansion
        return {
            "loss": type(self.loss).__name__,
            **self.loss.get_config_dict(),
            "n": given.n,
            "scope": given.scope,
            "normalize_synthetic": given.normalize_synthetic,
            "max_segments": given.max_segments,
            "balance": self.balance,
            "selective": self.selective,
        }


class SentenceLoss(nn.Module):
    """Makes a loss on embeddings and labels usable in the SentenceTransformerTrainer.

    Args:
        model: the SentenceTransformer to train.
        loss: a loss of this package, plain or wrapped in `EmbeddingExpansion`, `CrossBatchMemory` or `DistributedLoss`.

    Shapes: sentence_features as the library's collator makes them, one entry for each column of texts; labels (b,),
    whole numbers; the result is a scalar. All texts of a row have its label. Without labels, as with (anchor, positive)
    columns, each row is a separate class. The texts of a row are adjacent in the batch, as anchor scope requires.

    Raises:
        InvalidType: if loss is a class or not a module, or if labels are not whole numbers.
        InvalidInput: if there is only one column of texts and no labels.

    The trainer also trains the parameters of the loss, such as proxies. It averages gradients over processes, so wrap
    the loss in `DistributedLoss` if there are several.
    """

    @validates
    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        if isinstance(loss, type):
            raise InvalidType(f"loss is the class {loss.__name__}; pass an instance, {loss.__name__}()")
        if not isinstance(loss, nn.Module):
            raise InvalidType(f"loss is a {type(loss).__name__}; pass a loss on embeddings and labels")
        if getattr(loss, "reduction", "mean") != "mean":
            raise InvalidInput("the trainer needs a scalar, but the loss has reduction='none'; pass reduction='mean'")
        self.model, self.loss = model, loss  # the trainer looks for an attribute named `model`

    @validates
    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, ""]:
        """Embeds a batch of texts with the model, and computes the loss."""
        columns = [self.model(features)[EMBEDDING] for features in sentence_features]
        if labels is None:
            labels = _own_classes(columns)
        embeddings = torch.stack(columns, dim=1).flatten(0, 1)
        value: Tensor = self.loss(embeddings, labels.flatten().repeat_interleave(len(columns)))
        return value

    def get_config_dict(self) -> dict[str, Any]:
        """The description of the loss for the model card."""
        return {"loss": " ".join(repr(self.loss).split())}


def _is_theirs(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "sentence_transformers"


def _known(loss: nn.Module) -> _Known:
    """Identifies a loss by the nearest supported class of the library among its bases.

    Raises:
        InvalidInput: if there is none.
    """
    for kind in type(loss).__mro__:
        if _is_theirs(kind) and kind.__name__ in _LOSSES:
            return _LOSSES[kind.__name__]
    raise InvalidInput(
        f"{type(loss).__name__} cannot be expanded: it does not compare a batch of texts by class; pass one of "
        f"{', '.join(_LOSSES)}, or SentenceLoss(model, EmbeddingExpansion(...))"
    )


def _distance_of(loss: nn.Module) -> Distance:
    """Identifies the distance of a loss by its values on three points; a partial or a lambda has no telling name.

    Raises:
        InvalidInput: if the distance is not supported.
    """
    points = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.25, -1.0]], dtype=torch.float64)
    unit = functional.normalize(points, dim=1)
    straight = (points[:, None] - points).norm(dim=2)
    distances: dict[Distance, Tensor] = {"euclidean": straight, "squared": straight**2, "cosine": 1 - unit @ unit.T}
    metric: Callable[[Tensor], Any] | Any = loss.distance_metric
    try:
        found = None if isinstance(metric, nn.Module) else metric(points)
    except Exception:  # an unknown function may fail in any way; it is not a supported distance
        found = None
    for name, expected in distances.items():
        if isinstance(found, Tensor) and found.shape == expected.shape and torch.allclose(found.double(), expected):
            return name
    raise InvalidInput(
        f"the distance of {type(loss).__name__} is {getattr(metric, '__name__', metric)!r}, which is not supported "
        "for synthetic points; use euclidean_distance or cosine_distance"
    )


def _as_distance(similarity: Float[Tensor, "b c"], distance: Distance) -> Float[Tensor, "b c"]:
    """Converts similarities to distances; the square root passes no gradient at distance 0."""
    if distance == "cosine":
        return 1 - similarity
    square = (2 * (1 - similarity)).clamp(min=0)
    apart = square > 0
    return square if distance == "squared" else torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)


def _repeats(same: Bool[Tensor, "b b"]) -> Bool[Tensor, " b"]:
    """The mask of the rows that are not the first of their class."""
    return same.tril(diagonal=-1).any(dim=1)


def _own_classes(columns: list[Tensor]) -> Int[Tensor, " b"]:
    """A separate class for each row, distinct across ranks."""
    if len(columns) < 2:
        raise InvalidInput(
            "the batch has one column of texts and no labels; add a label column or a second text column"
        )
    rows = torch.arange(len(columns[0]), device=columns[0].device)
    several = dist.is_available() and dist.is_initialized()
    return rows + len(rows) * dist.get_rank() if several else rows
