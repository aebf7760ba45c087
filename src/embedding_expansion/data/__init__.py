"""Data sets, batches and image transforms."""
