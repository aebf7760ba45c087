"""Tuning: one search with the same budget for every form of expansion, on held-out training classes."""
