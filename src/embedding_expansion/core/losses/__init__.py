"""The pair losses, as pure functions of a table of similarities: `Pairs -> Terms`.

Each returns what every anchor adds and how much it weighs, so that the papers' normalisers come out exactly, also when
classes differ in size and when a batch is spread over ranks or row blocks.
"""

from embedding_expansion.core.losses.hinge import contrastive, hphn_triplet, triplet
from embedding_expansion.core.losses.logarithmic import lifted_structure, multi_similarity, n_pair
from embedding_expansion.core.terms import Terms

__all__ = ["Terms", "contrastive", "hphn_triplet", "lifted_structure", "multi_similarity", "n_pair", "triplet"]
