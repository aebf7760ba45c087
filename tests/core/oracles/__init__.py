"""Slow, obvious loops of every equation; see tables.py."""

from __future__ import annotations

from collections.abc import Callable

from . import hinge, logarithmic
from .tables import Table, expanded_table, hardest_pair, plain_table, similarity
from .terms import ZERO, Term, gradient, mean, totals, weights

__all__ = [
    "METRICS",
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
    "multi_similarity": logarithmic.multi_similarity,
}

METRICS = {
    "contrastive": "euclidean",
    "triplet": "euclidean",
    "hphn_triplet": "euclidean",
    "n_pair": "inner",
    "lifted_structure": "euclidean",
    "multi_similarity": "inner",
}
