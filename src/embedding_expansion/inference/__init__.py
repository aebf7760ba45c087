"""Trained models in use: embedding images, exporting models, and indexing, searching and clustering collections."""
