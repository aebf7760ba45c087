"""Post-processing of retrieval: better lists from given embeddings, without training.

`query_expansion.py` and `whitening.py` improve the rows; `reciprocal.py` and `graph_diffusion.py` improve the lists.
`chain.py` applies several of them in order. The names are loaded on first use, because the command line reads
`steps.py` and must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedding_expansion.retrieval.rerank.chain import post_processed_lists
    from embedding_expansion.retrieval.rerank.graph_diffusion import diffusion
    from embedding_expansion.retrieval.rerank.query_expansion import alpha_query_expansion, database_augmentation
    from embedding_expansion.retrieval.rerank.reciprocal import k_reciprocal
    from embedding_expansion.retrieval.rerank.steps import Steps
    from embedding_expansion.retrieval.rerank.whitening import PCAWhitening

_MODULE_OF = {
    "alpha_query_expansion": "query_expansion",
    "database_augmentation": "query_expansion",
    "PCAWhitening": "whitening",
    "diffusion": "graph_diffusion",
    "k_reciprocal": "reciprocal",
    "post_processed_lists": "chain",
    "Steps": "steps",
}

__all__ = [
    "PCAWhitening",
    "Steps",
    "alpha_query_expansion",
    "database_augmentation",
    "diffusion",
    "k_reciprocal",
    "post_processed_lists",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
