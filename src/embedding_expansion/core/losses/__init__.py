"""The pair losses, as pure functions of a table of similarities: `Pairs -> Terms`.

Each returns what every anchor adds and how much it weighs, so that the papers' normalisers come out exactly, also when
classes differ in size and when a batch is spread over ranks or row blocks.
"""

from embedding_expansion.core.losses.angular import angular
from embedding_expansion.core.losses.hinge import contrastive, margin
from embedding_expansion.core.losses.logarithmic import (
    generalized_lifted_structure,
    lifted_structure,
    multi_similarity,
    n_pair,
)
from embedding_expansion.core.losses.proxy import (
    arcface,
    cosface,
    nearest_center,
    normalized_softmax,
    proxy_anchor,
    proxy_nca,
    soft_centers,
    soft_triple,
)
from embedding_expansion.core.losses.ranked_list import ranked_list
from embedding_expansion.core.losses.ranking import fast_ap, recall_at_k, smooth_ap
from embedding_expansion.core.losses.signal_to_noise import snr_contrastive
from embedding_expansion.core.losses.softmax import circle, nca, nt_xent, sup_con, tuplet_margin
from embedding_expansion.core.losses.statistical import histogram, intra_pair_variance
from embedding_expansion.core.losses.triplet import hphn_triplet, triplet
from embedding_expansion.core.terms import Terms

__all__ = [
    "Terms",
    "angular",
    "arcface",
    "circle",
    "contrastive",
    "cosface",
    "fast_ap",
    "generalized_lifted_structure",
    "histogram",
    "hphn_triplet",
    "intra_pair_variance",
    "lifted_structure",
    "margin",
    "multi_similarity",
    "n_pair",
    "nca",
    "nearest_center",
    "normalized_softmax",
    "nt_xent",
    "proxy_anchor",
    "proxy_nca",
    "ranked_list",
    "recall_at_k",
    "smooth_ap",
    "snr_contrastive",
    "soft_centers",
    "soft_triple",
    "sup_con",
    "triplet",
    "tuplet_margin",
]
