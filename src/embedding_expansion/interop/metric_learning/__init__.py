"""Adapters for pytorch-metric-learning: they expand its losses and apply its miners to our tables."""

from embedding_expansion.interop.metric_learning.loss import adapted as adapted
from embedding_expansion.interop.metric_learning.miners import mined as mined
