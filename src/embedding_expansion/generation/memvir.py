"""MemVir: embeddings and proxies of earlier steps are classes of their own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from embedding_expansion.checks import as_whole, validates
from embedding_expansion.core.proxy_loss import ProxyLoss
from embedding_expansion.errors import InvalidInput
from embedding_expansion.generation.method import NETWORK, Method, Objective
from embedding_expansion.generation.proxy_synthesis import checked_proxy_loss
from embedding_expansion.generation.tables import rows_of


class MemVir(Method, name="memvir"):
    """Memory-based virtual classes: a loss on proxies of the batch and of earlier steps.

    The embeddings and the proxies of the steps before, gap + 1 steps apart, are constants. Each such step adds as many
    virtual classes as there are training classes; so their number grows step by step once the memory has started.

    Args:
        loss: a loss on one proxy per class.
        batch_size: the most images of a batch.
        virtual: earlier steps that are used at once; 0 is the loss alone.
        gap: steps between them that are not used.
        start: steps before the memory starts to fill.

    Source: Ko, Gu & Kim, "Learning with Memory-based Virtual Classes for Deep Metric Learning", ICCV 2021, and its
    program. Differs from the source: the warm-up is in steps instead of epochs, and shorter by default. The memory
    takes virtual (gap + 1) (classes + batch size) d numbers.
    """

    loss: ProxyLoss
    past: Tensor
    past_labels: Tensor
    past_proxies: Tensor
    steps: Tensor

    @validates
    def __init__(self, loss: ProxyLoss, batch_size: int, virtual: int = 3, gap: int = 10, start: int = 50) -> None:
        super().__init__(checked_proxy_loss(loss))
        rows = as_whole(batch_size, "batch_size", least=1)
        self.virtual, self.gap = as_whole(virtual, "virtual", least=0), as_whole(gap, "gap", least=0)
        self.start = as_whole(start, "start", least=0)
        length, (classes, size) = self.virtual * (self.gap + 1), loss.proxies.shape
        self.register_buffer("past", torch.zeros(length, rows, size))
        self.register_buffer("past_labels", torch.full((length, rows), -1))  # -1 is a row of no image
        self.register_buffer("past_proxies", torch.zeros(length, classes, size))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def objectives(
        self, features: Float[Tensor, "b w"], embeddings: Float[Tensor, "b d"], labels: Int[Tensor, " b"]
    ) -> dict[str, Objective]:
        """The loss of the batch and of the earlier steps."""
        rows, proxies = rows_of(self.loss, embeddings), rows_of(self.loss, self.loss.proxies)
        all_rows, all_labels, all_proxies = [rows], [labels], [proxies]
        for place in self._places():
            there = self.past_labels[place] >= 0
            all_rows.append(self.past[place][there].to(rows.dtype))
            all_labels.append(self.past_labels[place][there] + sum(map(len, all_proxies)))
            all_proxies.append(self.past_proxies[place].to(rows.dtype))
        value = self.loss.with_proxies(torch.cat(all_proxies))(torch.cat(all_rows), torch.cat(all_labels))
        self._remember(rows.detach(), labels, proxies.detach())
        return {"metric": Objective(value, (NETWORK, "loss"))}

    def _places(self) -> list[int]:
        """The places of the steps that are used, the latest one first."""
        filled = int(self.steps) - self.start
        ages = (age * (self.gap + 1) for age in range(1, self.virtual + 1))
        return [(filled - age) % len(self.past) for age in ages if age <= filled]

    def _remember(self, rows: Float[Tensor, "b d"], labels: Int[Tensor, " b"], proxies: Float[Tensor, "c d"]) -> None:
        """Puts a step in the place of the oldest one."""
        filled, most = int(self.steps) - self.start, self.past.shape[1]
        if len(rows) > most:
            raise InvalidInput(f"the batch has {len(rows)} rows, but batch_size of MemVir is {most}; pass it larger")
        self.steps += 1
        if filled < 0 or not self.virtual:
            return
        place = filled % len(self.past)
        self.past[place, : len(rows)], self.past_proxies[place] = rows.to(self.past.dtype), proxies.to(self.past.dtype)
        self.past_labels[place] = -1
        self.past_labels[place, : len(rows)] = labels
