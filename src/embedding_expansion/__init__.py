"""Embedding expansion for deep metric learning: augmentation in embedding space, for any pair loss.

    loss = EmbeddingExpansion(MultiSimilarityLoss(), n=2)
    loss(embeddings, labels).backward()

The public names are loaded when they are first used, so that importing the package alone loads nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from embedding_expansion.core.adapters import register

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
    from embedding_expansion.inference.client import Client
    from embedding_expansion.inference.collection import Collection
    from embedding_expansion.inference.embedder import Embedder
    from embedding_expansion.model import EmbeddingModel
    from embedding_expansion.retrieval.clustering import agglomerative, clustering_metrics, hdbscan, partition_metrics
    from embedding_expansion.retrieval.duplicates import near_duplicates
    from embedding_expansion.retrieval.index import Item, create_index, open_index
    from embedding_expansion.retrieval.kmeans import kmeans
    from embedding_expansion.retrieval.lists import list_metrics
    from embedding_expansion.retrieval.metrics import retrieval_by_class, retrieval_metrics, retrieval_values
    from embedding_expansion.retrieval.open_set import open_set
    from embedding_expansion.retrieval.rerank.graph_diffusion import diffusion
    from embedding_expansion.retrieval.rerank.query_expansion import alpha_query_expansion, database_augmentation
    from embedding_expansion.retrieval.rerank.reciprocal import k_reciprocal
    from embedding_expansion.retrieval.rerank.whitening import PCAWhitening
    from embedding_expansion.retrieval.search import nearest
    from embedding_expansion.retrieval.threshold import Threshold
    from embedding_expansion.retrieval.verification import verification

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
    "retrieval_by_class": "retrieval.metrics",
    "retrieval_values": "retrieval.metrics",
    "verification": "retrieval.verification",
    "open_set": "retrieval.open_set",
    "Threshold": "retrieval.threshold",
    "kmeans": "retrieval.kmeans",
    "near_duplicates": "retrieval.duplicates",
    "agglomerative": "retrieval.clustering",
    "hdbscan": "retrieval.clustering",
    "partition_metrics": "retrieval.clustering",
    "nearest": "retrieval.search",
    "list_metrics": "retrieval.lists",
    "alpha_query_expansion": "retrieval.rerank.query_expansion",
    "database_augmentation": "retrieval.rerank.query_expansion",
    "k_reciprocal": "retrieval.rerank.reciprocal",
    "diffusion": "retrieval.rerank.graph_diffusion",
    "PCAWhitening": "retrieval.rerank.whitening",
    "Item": "retrieval.index",
    "create_index": "retrieval.index",
    "open_index": "retrieval.index",
    "Embedder": "inference.embedder",
    "Client": "inference.client",
    "Collection": "inference.collection",
}

__all__ = [
    "LOSSES",
    "PROXY_LOSSES",
    "AngularLoss",
    "ArcFaceLoss",
    "BatchHardMiner",
    "CircleLoss",
    "ClassBalancedSampler",
    "Client",
    "Collection",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "DistanceWeightedMiner",
    "DistributedLoss",
    "EasyPositiveMiner",
    "Embedder",
    "EmbeddingExpansion",
    "EmbeddingModel",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "HPHNTripletLoss",
    "HistogramLoss",
    "IntraPairVarianceLoss",
    "Item",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "MultiSimilarityMiner",
    "NCALoss",
    "NPairLoss",
    "NTXentLoss",
    "NormalizedSoftmaxLoss",
    "PCAWhitening",
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
    "Threshold",
    "TripletLoss",
    "TupletMarginLoss",
    "Winners",
    "__version__",
    "agglomerative",
    "alpha_query_expansion",
    "clustering_metrics",
    "compare",
    "create_index",
    "database_augmentation",
    "diffusion",
    "expand",
    "hardest",
    "hdbscan",
    "k_reciprocal",
    "kmeans",
    "list_metrics",
    "near_duplicates",
    "nearest",
    "open_dataset",
    "open_index",
    "open_set",
    "partition_metrics",
    "retrieval_by_class",
    "retrieval_metrics",
    "retrieval_values",
    "synthesize",
    "verification",
]


register(
    pytorch_metric_learning="embedding_expansion.interop.metric_learning",
    sentence_transformers="embedding_expansion.interop.sentence_transformers",
)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
