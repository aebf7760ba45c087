"""Post-processing of retrieval: better lists from the embeddings that are there, without training.

Read `query_expansion.py` and `whitening.py` first, which give better rows, then `reciprocal.py` and `diffusion.py`,
which give better lists. `chain.py` puts them one after the other.
"""
