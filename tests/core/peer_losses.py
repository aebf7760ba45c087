"""Losses of pytorch-metric-learning to expand, and what they are to give: loops over explicit tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import oracles
from .batches import batch
from .oracles import Table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_metric_learning import losses as peers

    RANKED_LIST = peers.RankedListLoss(margin=0.4, Tn=2)

# On images that are alone in their class: ours leaves them out, it counts them; and the other way round.
OF_PAIRS = ("GeneralizedLiftedStructureLoss", "HistogramLoss")
UNEQUAL, PAIRED, SQUARE = (3, 1, 2, 4), (4, 2, 2), (3, 3, 3)
ACTIVE: dict[str, Any] = {"squared": False, "average": "active"}

# its loss, ours of the same formula with the same parameters, the relative tolerance
SAME: dict[str, tuple[Any, str, dict[str, Any], float]] = {
    "ContrastiveLoss": (peers.ContrastiveLoss(), "contrastive", ACTIVE, 1e-6),
    "TripletMarginLoss": (peers.TripletMarginLoss(), "triplet", {"margin": 0.05, **ACTIVE}, 1e-6),
    "TripletMarginLoss, smooth": (
        peers.TripletMarginLoss(margin=0, smooth_loss=True),
        "triplet",
        {"soft_margin": True, **ACTIVE},
        1e-6,
    ),
    "GeneralizedLiftedStructureLoss": (
        peers.GeneralizedLiftedStructureLoss(),
        "generalized_lifted_structure",
        {},
        1e-6,
    ),
    "MarginLoss": (peers.MarginLoss(), "margin", {"count": "triplets"}, 1e-6),
    "MultiSimilarityLoss": (peers.MultiSimilarityLoss(), "multi_similarity", {}, 1e-6),
    "CircleLoss": (peers.CircleLoss(), "circle", {}, 1e-6),
    "SupConLoss": (peers.SupConLoss(), "sup_con", {}, 1e-6),
    "NTXentLoss": (peers.NTXentLoss(), "nt_xent", {}, 1e-6),
    "NCALoss": (peers.NCALoss(softmax_scale=2), "nca", {"scale": 2.0}, 1e-6),
    "TupletMarginLoss": (peers.TupletMarginLoss(), "tuplet_margin", {}, 1e-6),
    "IntraPairVarianceLoss": (peers.IntraPairVarianceLoss(), "intra_pair_variance", {}, 1e-6),
    # it adds 1e-5 to every weight
    "RankedListLoss": (RANKED_LIST, "ranked_list", {"negative_temperature": 2.0}, 2e-3),
    "HistogramLoss": (peers.HistogramLoss(n_bins=5), "histogram", {"bins": 5}, 1e-5),
    "FastAPLoss": (peers.FastAPLoss(), "fast_ap", {}, 1e-6),
    "SmoothAPLoss": (peers.SmoothAPLoss(), "smooth_ap", {"query_counts": True}, 1e-5),
}


def peer_batch(name: str, scope: str = "class_pair", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of any norm in float64 as the loss and the scope take them."""
    if name == "SmoothAPLoss":  # it reads classes off their places
        E, labels = batch(SQUARE, 4, seed, unit=False)
        order = labels.argsort()
        E, labels = E[order], labels[order]
    elif scope == "anchor":
        E, labels = batch(PAIRED, 4, seed, unit=False, paired=True)
    else:
        d = 12 if name == "HistogramLoss" else 4  # there is no gradient where all hardest pairs nearly coincide
        E, labels = batch((3, 2, 4) if name in OF_PAIRS else UNEQUAL, d, seed, unit=False)
    return E, torch.unique(labels, return_inverse=True)[1]


def explicit(E: Tensor, labels: Tensor, metric: str, scope: str = "class_pair", *, normalize: bool = True) -> Table:
    rows = torch.nn.functional.normalize(E, dim=1) if normalize else E
    return oracles.expanded_table(rows, labels.tolist(), 2, scope, metric=metric)


def distance(similarity: Tensor) -> Tensor:
    return (2 - 2 * similarity).clamp(min=1e-12).sqrt()


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def active(values: list[Tensor]) -> Tensor:
    kept = [v for v in values if float(v.detach()) > 0]
    return mean(kept) if kept else torch.zeros((), dtype=torch.float64)


# --- the losses that ours have no double of: loops --------------------------------------------------------------------


def lifted(E: Tensor, labels: Tensor) -> Tensor:
    """The hardest pairs of both ends' class: each other class counts twice."""
    table = explicit(E, labels, "euclidean")
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        pushed = sum(2 * (1 - distance(s)).exp() for s in negatives)
        terms += [torch.relu(pushed.log() + distance(s)) ** 2 / 2 for s in positives]
    return mean(terms)


def pnp(E: Tensor, labels: Tensor, scope: str = "class_pair") -> Tensor:
    """The negatives before each image of the class, itself included, on sigmoids of differences over 0.01."""
    table = explicit(E, labels, "inner", scope)
    one = torch.ones((), dtype=torch.float64)
    terms = []
    for positives, negatives in zip(table.positives, table.negatives, strict=True):
        if not positives:
            continue
        ranks = [sum(1 / (1 + (-((t - s) / 0.01).clamp(-50, 50)).exp()) for t in negatives) for s in [one, *positives]]
        terms.append(sum(ranks) / len(ranks))
    return mean(terms)


def triplet_with_swap(E: Tensor, labels: Tensor) -> Tensor:
    """Anchor and positive share their class's hardest pairs, so that swapping changes nothing."""
    table = explicit(E, labels, "euclidean")
    return active(
        [
            torch.relu(distance(s) - distance(t) + 0.05)
            for positives, negatives in zip(table.positives, table.negatives, strict=True)
            for s in positives
            for t in negatives
        ]
    )


LOOPS: dict[str, tuple[Callable[[], Any], Callable[..., Tensor]]] = {
    "LiftedStructureLoss": (peers.LiftedStructureLoss, lifted),
    "PNPLoss": (peers.PNPLoss, pnp),
    "TripletMarginLoss, swap": (lambda: peers.TripletMarginLoss(swap=True), triplet_with_swap),
}
