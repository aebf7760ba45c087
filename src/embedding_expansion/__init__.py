"""Embedding expansion for deep metric learning: augmentation in embedding space, for any pair loss.

    loss = EmbeddingExpansion(MultiSimilarityLoss(), n=2)
    loss(embeddings, labels).backward()

The public names are loaded when they are first used, so that importing the package alone loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedding_expansion.core.distributed import DistributedLoss
    from embedding_expansion.core.expanded_loss import EmbeddingExpansion
    from embedding_expansion.core.expansion import expand, hardest, synthesize
    from embedding_expansion.core.memory import CrossBatchMemory
    from embedding_expansion.core.miners import (
        BatchHardMiner,
        DistanceWeightedMiner,
        EasyPositiveMiner,
        MultiSimilarityMiner,
    )
    from embedding_expansion.core.mining import Winners
    from embedding_expansion.core.modules import (
        LOSSES,
        AngularLoss,
        CircleLoss,
        ContrastiveLoss,
        FastAPLoss,
        GeneralizedLiftedStructureLoss,
        HistogramLoss,
        HPHNTripletLoss,
        IntraPairVarianceLoss,
        LiftedStructureLoss,
        MarginLoss,
        MultiSimilarityLoss,
        NCALoss,
        NPairLoss,
        NTXentLoss,
        RankedListLoss,
        RecallAtKLoss,
        SignalToNoiseRatioContrastiveLoss,
        SmoothAPLoss,
        SupConLoss,
        TripletLoss,
        TupletMarginLoss,
    )
    from embedding_expansion.core.pair_loss import PairLoss
    from embedding_expansion.core.pairs import Pairs, compare
    from embedding_expansion.core.proxy_losses import (
        PROXY_LOSSES,
        ArcFaceLoss,
        CosFaceLoss,
        NormalizedSoftmaxLoss,
        ProxyAnchorLoss,
        ProxyNCALoss,
        SoftTripleLoss,
        SubCenterArcFaceLoss,
    )
    from embedding_expansion.core.terms import Terms
    from embedding_expansion.data.datasets import open_dataset
    from embedding_expansion.data.sampler import ClassBalancedSampler
    from embedding_expansion.model import EmbeddingModel
    from embedding_expansion.retrieval.clustering import clustering_metrics
    from embedding_expansion.retrieval.metrics import retrieval_metrics

__version__ = "0.1.0"

_MODULE_OF = {
    "DistributedLoss": "core.distributed",
    "expand": "core.expansion",
    "hardest": "core.expansion",
    "synthesize": "core.expansion",
    "Terms": "core.terms",
    "CrossBatchMemory": "core.memory",
    "BatchHardMiner": "core.miners",
    "DistanceWeightedMiner": "core.miners",
    "EasyPositiveMiner": "core.miners",
    "MultiSimilarityMiner": "core.miners",
    "Winners": "core.mining",
    "LOSSES": "core.modules",
    "AngularLoss": "core.modules",
    "CircleLoss": "core.modules",
    "ContrastiveLoss": "core.modules",
    "FastAPLoss": "core.modules",
    "GeneralizedLiftedStructureLoss": "core.modules",
    "HPHNTripletLoss": "core.modules",
    "HistogramLoss": "core.modules",
    "IntraPairVarianceLoss": "core.modules",
    "LiftedStructureLoss": "core.modules",
    "MarginLoss": "core.modules",
    "MultiSimilarityLoss": "core.modules",
    "NCALoss": "core.modules",
    "NPairLoss": "core.modules",
    "NTXentLoss": "core.modules",
    "RankedListLoss": "core.modules",
    "RecallAtKLoss": "core.modules",
    "SignalToNoiseRatioContrastiveLoss": "core.modules",
    "SmoothAPLoss": "core.modules",
    "SupConLoss": "core.modules",
    "TripletLoss": "core.modules",
    "TupletMarginLoss": "core.modules",
    "EmbeddingExpansion": "core.expanded_loss",
    "PairLoss": "core.pair_loss",
    "Pairs": "core.pairs",
    "PROXY_LOSSES": "core.proxy_losses",
    "ArcFaceLoss": "core.proxy_losses",
    "CosFaceLoss": "core.proxy_losses",
    "NormalizedSoftmaxLoss": "core.proxy_losses",
    "ProxyAnchorLoss": "core.proxy_losses",
    "ProxyNCALoss": "core.proxy_losses",
    "SoftTripleLoss": "core.proxy_losses",
    "SubCenterArcFaceLoss": "core.proxy_losses",
    "compare": "core.pairs",
    "open_dataset": "data.datasets",
    "ClassBalancedSampler": "data.sampler",
    "EmbeddingModel": "model",
    "clustering_metrics": "retrieval.clustering",
    "retrieval_metrics": "retrieval.metrics",
}

__all__ = [
    "LOSSES",
    "PROXY_LOSSES",
    "AngularLoss",
    "ArcFaceLoss",
    "BatchHardMiner",
    "CircleLoss",
    "ClassBalancedSampler",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "DistanceWeightedMiner",
    "DistributedLoss",
    "EasyPositiveMiner",
    "EmbeddingExpansion",
    "EmbeddingModel",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "HPHNTripletLoss",
    "HistogramLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "MultiSimilarityMiner",
    "NCALoss",
    "NPairLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "PairLoss",
    "Pairs",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "RecallAtKLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SmoothAPLoss",
    "SoftTripleLoss",
    "SubCenterArcFaceLoss",
    "SupConLoss",
    "Terms",
    "TripletLoss",
    "TupletMarginLoss",
    "Winners",
    "__version__",
    "clustering_metrics",
    "compare",
    "expand",
    "hardest",
    "open_dataset",
    "retrieval_metrics",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
