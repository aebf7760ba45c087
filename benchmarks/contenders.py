"""The timed contenders: this package's losses, the incumbent's (pytorch-metric-learning), and the Gram product."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES
from embedding_expansion.core.miners import MultiSimilarityMiner
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.search import native
from embedding_expansion.errors import EmbeddingExpansionError
from harness import Step


@dataclass(frozen=True)
class Peer:
    """A loss of the incumbent at its defaults, except for `options`, with a miner if the same loss needs one."""

    loss: str
    options: dict[str, Any] = field(default_factory=dict)
    miner: str = ""
    miner_options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pytorch_metric_learning import losses, miners
        loss = getattr(losses, self.loss)(**self.options)
        return _Mined(loss, getattr(miners, self.miner)(**self.miner_options)) if self.miner else loss


class _Mined(nn.Module):
    def __init__(self, loss: nn.Module, miner: nn.Module) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels, self.miner(embeddings, labels))


@dataclass(frozen=True)
class Row:
    """One row of the comparison: a registered loss at its defaults, except for `options`, and the incumbent's."""

    name: str
    key: str
    peer: Peer | None = None
    options: dict[str, Any] = field(default_factory=dict)
    most: float | None = 1.0  # bar: times the incumbent's time, expanded; None: only reported
    miner: Callable[[Pairs], Pairs] | None = None

    def module(self, **more: Any) -> nn.Module:
        return LOSSES[self.key](**self.options, miner=self.miner, **more)

    @property
    def expandable(self) -> bool:
        return not LOSSES[self.key].not_expandable


def _row(key: str, peer: str, name: str = "", most: float | None = 1.0, **options: Any) -> Row:
    return Row(name or key, key, Peer(peer), options, most)


ROWS = (
    _row("contrastive", "ContrastiveLoss", most=1.3),
    _row("triplet", "TripletMarginLoss"),
    Row("hphn_triplet", "hphn_triplet", Peer("TripletMarginLoss", miner="BatchHardMiner"), most=1.3),
    Row(
        "triplet, semi-hard",
        "triplet",
        Peer("TripletMarginLoss", miner="TripletMarginMiner", miner_options={"type_of_triplets": "semihard"}),
        {"mining": "semihard"},
    ),
    _row("n_pair", "NPairsLoss", most=None),  # the incumbent's uses only two rows of each class
    _row("lifted_structure", "LiftedStructureLoss"),
    _row("generalized_lifted_structure", "GeneralizedLiftedStructureLoss"),
    _row("multi_similarity", "MultiSimilarityLoss"),
    Row(
        "multi_similarity, mined",
        "multi_similarity",
        Peer("MultiSimilarityLoss", miner="MultiSimilarityMiner"),
        miner=MultiSimilarityMiner(),
    ),
    _row("circle", "CircleLoss"),
    _row("sup_con", "SupConLoss"),
    _row("nt_xent", "NTXentLoss"),
    _row("margin", "MarginLoss"),
    _row("nca", "NCALoss"),
    _row("tuplet_margin", "TupletMarginLoss"),
    _row("intra_pair_variance", "IntraPairVarianceLoss"),
    Row("ranked_list", "ranked_list", Peer("RankedListLoss", {"margin": 0.4, "Tn": 5})),  # it has no defaults
    _row("histogram", "HistogramLoss"),
    _row("fast_ap", "FastAPLoss"),
    _row("smooth_ap", "SmoothAPLoss"),
    _row("angular", "AngularLoss"),
    _row("snr_contrastive", "SignalToNoiseRatioContrastiveLoss"),
)


def choose(names: Iterable[str] | None) -> tuple[list[Row], dict[str, str]]:
    """Return the rows of the given names (default: all), and why some of them cannot be run.

    A registered loss without a row here is compared with the Gram product only.
    """
    rows = [*ROWS, *(Row(key, key, most=None) for key in LOSSES if key not in {row.key for row in ROWS})]
    if names is not None:
        unknown = set(names) - {row.name for row in rows}
        if unknown:
            raise SystemExit(f"no loss is named {', '.join(sorted(unknown))}; known: {', '.join(r.name for r in rows)}")
        rows = [row for row in rows if row.name in names]
    left_out = {row.name: why for row in rows if (why := _why_not(row))}
    return [row for row in rows if row.name not in left_out], left_out


def _why_not(row: Row) -> str:
    if row.key not in LOSSES:
        return f"the registry has no loss named {row.key}"
    try:
        row.module()
    except EmbeddingExpansionError as error:
        return str(error)
    return ""


def searches() -> tuple[str, ...]:
    """Return the two forms of the search for hardest pairs, the active one first."""
    return ("native", "torch") if native.available() else ("torch",)


def searching(name: str) -> contextlib.AbstractContextManager[Any]:
    """Use this form of the search inside the `with` block."""
    return native.disabled() if name == "torch" else contextlib.nullcontext()


def step(loss: Callable[[Tensor, Tensor], Tensor], embeddings: Tensor, labels: Tensor, search: str = "native") -> Step:
    """Run forward and backward to the embeddings and the parameters of the loss, without accumulating gradients."""
    inputs = [embeddings]
    if isinstance(loss, nn.Module):
        inputs += [parameter for parameter in loss.parameters() if parameter.requires_grad]

    def once() -> None:
        with searching(search):
            torch.autograd.grad(loss(embeddings, labels), inputs, allow_unused=True)

    return once


@dataclass(frozen=True)
class GramProduct:
    """The minimum that any pair loss computes: all inner products, and their backward pass."""

    name: str = "gram"

    def step(self, embeddings: Tensor, labels: Tensor) -> Step:
        return step(lambda E, _: (E @ E.T).sum(), embeddings, labels)


@dataclass(frozen=True)
class Incumbent:
    row: Row
    name: str = "incumbent"

    def step(self, embeddings: Tensor, labels: Tensor) -> Step:
        assert self.row.peer is not None
        return step(self.row.peer.build(), embeddings, labels)


@dataclass(frozen=True)
class Ours:
    """A loss of this package: plain (n = None) or expanded, with one form of the search."""

    row: Row
    n: float | None = 2
    search: str = "torch"
    options: dict[str, Any] = field(default_factory=dict)  # options of the expansion

    @property
    def name(self) -> str:
        words = ["plain"] if self.n is None else [self.search, f"n={self.n}"]
        return " ".join([*words, *(f"{key}={value}" for key, value in self.options.items())])

    def build(self) -> nn.Module:
        if self.n is None:
            return self.row.module(**self.options)
        return EmbeddingExpansion(self.row.module(), n=self.n, **self.options)  # type: ignore[arg-type]

    def step(self, embeddings: Tensor, labels: Tensor) -> Step:
        return step(self.build(), embeddings, labels, self.search)
