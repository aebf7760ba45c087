"""The names of `retrieval.rerank` and the modules that define them."""

from .chain import post_processed_lists as post_processed_lists
from .graph_diffusion import diffusion as diffusion
from .query_expansion import alpha_query_expansion as alpha_query_expansion
from .query_expansion import database_augmentation as database_augmentation
from .reciprocal import k_reciprocal as k_reciprocal
from .steps import Steps as Steps
from .whitening import PCAWhitening as PCAWhitening
