"""Exact nearest neighbours, retrieval and clustering measures, re-ranking, and indexes of embeddings."""
