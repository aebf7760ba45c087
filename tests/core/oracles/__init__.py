"""Slow, obvious loops of every equation; see tables.py."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from embedding_expansion.forms import SCOPES

from .registry import KNOWN
from .tables import Table, expanded_table, hardest_pair, plain_table, similarity
from .terms import ZERO, Term, gradient, mean, totals, weights

__all__ = [
    "CASES",
    "EXPANDABLE",
    "METRICS",
    "NOT_EXPANDABLE",
    "ORACLES",
    "OTHERS",
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

for file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{file.name}")

ORACLES: dict[str, Callable[..., list[list[Term]]]] = {name: known.function for name, known in KNOWN.items()}
METRICS = {name: known.metric for name, known in KNOWN.items()}
OTHERS = {name: known.others for name, known in KNOWN.items()}
NOT_EXPANDABLE = {name for name, known in KNOWN.items() if not known.expandable}
EXPANDABLE = [name for name in ORACLES if name not in NOT_EXPANDABLE]
CASES = [  # every loss plain, and expanded in every scope where it can be
    (name, scope) for name in ORACLES for scope in (None, *SCOPES) if scope is None or name in EXPANDABLE
]
