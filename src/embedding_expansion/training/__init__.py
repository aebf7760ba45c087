"""Training: jobs, the training loop, checkpoints and evaluation."""
