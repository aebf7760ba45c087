"""Notices during training that expansion has made all embeddings coincide.

Where the pull of a loss outweighs its push, moving all points together lowers the loss. It then stays at the value that
it has when all points coincide, and nearly all points of the hardest pairs are synthetic.
"""

from __future__ import annotations

import copy
from collections import deque

import torch
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.memory import CrossBatchMemory
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.core.proxy_loss import ProxyLoss
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.ranks import Ranks

STEPS = 50  # steps in a row before the warning
NEAR = 0.02  # how far the loss may be from its value for coinciding points, as a share of it
#: The least mean share of synthetic points, of those that can be synthetic, over these steps. On glyphs, batches of
#: 8 x 4 and 32 x 4 that had collapsed had 0.89 to 0.96. Multi-similarity with 32 x 4, which learns although its loss is
#: near that of coinciding points for a while, had 0.86.
SYNTHETIC = 0.88
COINCIDE = "its value when all embeddings coincide"  # the words that tell this warning from others


class CollapseWatch:
    """Counts the steps in a row that look collapsed, and warns once.

    The value for coinciding points is computed once: at the first step or, with a memory, when the memory is full. A
    step then costs one comparison of numbers. Losses on proxies are not watched, because their value for coinciding
    images depends on where these are.

    Args:
        loss: the loss of the run; it is not changed.
        config: the configuration of the run.
        has_warned: whether an earlier start of the run has warned already.
    """

    def __init__(self, loss: PairLoss, config: TrainConfig, *, has_warned: bool) -> None:
        self._loss, self._config = loss, config
        self._watches = config.expansion.search is not None and not isinstance(loss.plain(), ProxyLoss)
        self._has_warned = has_warned
        #: In scope "negative" the anchor's side is always an image, so that at most half of the points are synthetic.
        is_negative = config.expansion.search is not None and config.expansion.search.scope == "negative"
        self._most = 0.5 if is_negative else 1.0
        self._coinciding: float | None = None
        self._shares: deque[float] = deque(maxlen=STEPS)

    def step(self, value: float, labels: Tensor, ranks: Ranks) -> str:
        """Looks at a step; returns the warning when it is due, otherwise an empty string.

        All ranks call this, because the value for coinciding points needs the labels of the whole batch.

        Args:
            value: the loss of the step.
            labels: (b,), the labels of this rank.
            ranks: the processes that train together.
        """
        if not self._watches:
            return ""
        value = ranks.average(value)  # the loss of the whole batch
        if self._coinciding is None:
            if not self._is_filled():
                return ""
            of_all = [label for part in ranks.gather(labels.tolist()) for label in part]
            whole = torch.tensor(of_all)
            self._coinciding = value_of_coinciding_points(self._loss, whole, self._config.model.dimensions)
        share = None
        if self._coinciding != 0 and abs(value - self._coinciding) <= NEAR * abs(self._coinciding):
            share = self._loss.last_statistics.get("synthetic_share")
        if share is None:
            self._shares.clear()
            return ""
        self._shares.append(share.item() / self._most)
        if self._has_warned or len(self._shares) < STEPS or sum(self._shares) / STEPS < SYNTHETIC:
            return ""
        self._has_warned = True
        return self._warning()

    def _is_filled(self) -> bool:
        """Whether the number of embeddings that a batch is compared with no longer changes."""
        memory = self._loss
        if not isinstance(memory, CrossBatchMemory):
            return True
        return int(memory.entered) >= len(memory.labels) and int(memory.batches) > memory.start

    def _warning(self) -> str:
        search = self._config.expansion.search
        is_balanced = search is not None and search.balance is not False
        others = "--expansion none" if is_balanced else "--expansion.form balanced_negative, or --expansion none"
        return (
            f"for {STEPS} steps the loss has stayed at {self._coinciding:.4g}, {COINCIDE}, "
            f"with mostly synthetic points in the hardest pairs; if it stays there, train with {others}"
        )


@torch.no_grad()
def value_of_coinciding_points(loss: PairLoss, labels: Tensor, dimensions: int) -> float:
    """The loss of a batch with these labels in which all embeddings, and those of a memory, are the same unit vector.

    Args:
        loss: the loss; a copy of it is evaluated.
        labels: (b,), the labels of the batch.
        dimensions: of the embeddings.
    """
    tried = copy.deepcopy(loss).eval().to(labels.device)
    point = functional.one_hot(torch.tensor(0), dimensions).to(labels.device, torch.float32)
    if isinstance(tried, CrossBatchMemory):
        tried.rows[:] = point
    value: Tensor = tried(point.expand(len(labels), dimensions), labels)
    return value.item()
