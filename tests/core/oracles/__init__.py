"""Slow, obvious loops of every equation; see tables.py."""

from __future__ import annotations

from collections.abc import Callable

from . import hinge, logarithmic, ranking, softmax
from .tables import Table, expanded_table, hardest_pair, plain_table, similarity
from .terms import ZERO, Term, gradient, mean, totals, weights

__all__ = [
    "CASES",
    "EXPANDABLE",
    "METRICS",
    "NOT_EXPANDABLE",
    "ORACLES",
    "ZERO",
    "Table",
    "Term",
    "expanded_table",
    "gradient",
    "hardest_pair",
    "mean",
    "plain_table",
    "similarity",
    "totals",
    "weights",
]

ORACLES: dict[str, Callable[..., list[list[Term]]]] = {
    "contrastive": hinge.contrastive,
    "triplet": hinge.triplet,
    "hphn_triplet": hinge.hphn_triplet,
    "n_pair": logarithmic.n_pair,
    "lifted_structure": logarithmic.lifted_structure,
    "generalized_lifted_structure": softmax.generalized_lifted_structure,
    "multi_similarity": logarithmic.multi_similarity,
    "margin": hinge.margin,
    "circle": softmax.circle,
    "sup_con": softmax.sup_con,
    "nt_xent": softmax.nt_xent,
    "nca": softmax.nca,
    "tuplet_margin": softmax.tuplet_margin,
    "intra_pair_variance": ranking.intra_pair_variance,
    "ranked_list": hinge.ranked_list,
    "angular": softmax.angular,
    "snr_contrastive": hinge.snr_contrastive,
    "histogram": ranking.histogram,
    "fast_ap": ranking.fast_ap,
    "smooth_ap": ranking.smooth_ap,
    "recall_at_k": ranking.recall_at_k,
}

METRICS = dict.fromkeys(ORACLES, "euclidean") | dict.fromkeys(
    [
        "n_pair",
        "multi_similarity",
        "circle",
        "sup_con",
        "nt_xent",
        "tuplet_margin",
        "intra_pair_variance",
        "angular",
        "histogram",
        "smooth_ap",
        "recall_at_k",
    ],
    "inner",
)
METRICS["snr_contrastive"] = "snr"
NOT_EXPANDABLE = {"snr_contrastive"}
EXPANDABLE = [name for name in ORACLES if name not in NOT_EXPANDABLE]
CASES = [  # every loss plain, and expanded in either scope where it can be
    (name, scope) for name in ORACLES for scope in (None, "class_pair", "anchor") if scope is None or name in EXPANDABLE
]
