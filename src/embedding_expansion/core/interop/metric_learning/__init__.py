"""pytorch-metric-learning: its losses expanded through their distance, and its miners on our tables."""
