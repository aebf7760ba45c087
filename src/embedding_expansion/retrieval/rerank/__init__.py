"""Post-processing of retrieval: better lists from given embeddings, without training.

`query_expansion.py` and `whitening.py` improve the rows; `reciprocal.py` and `graph_diffusion.py` improve the lists.
`chain.py` applies several of them in order. `__init__.pyi` lists the names. They are loaded on first use, because the
command line reads `steps.py` and must not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
