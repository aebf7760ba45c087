"""Post-processing of retrieval: better lists from the embeddings that are there, without training.

Read `query_expansion.py` and `whitening.py` first, which give better rows, then `reciprocal.py` and
`graph_diffusion.py`, which give better lists. `chain.py` puts them one after the other. `__init__.pyi` lists the names,
which are loaded when they are first used: the command line reads `steps.py`, and must not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
