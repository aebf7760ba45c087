"""pytorch-metric-learning: its losses expanded through their distance, and its miners on our tables."""

from embedding_expansion.interop.metric_learning.loss import adapted as adapted
from embedding_expansion.interop.metric_learning.miners import mined as mined
