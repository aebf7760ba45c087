"""Exact neighbours, retrieval measures and clustering measures."""
