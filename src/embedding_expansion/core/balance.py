"""Balance: scales the pull of an expanded loss so that a contraction of the batch does not lower the loss.

A contraction moves every similarity s of a table to s + e (1 - s). It changes a loss L by e (push - pull), with

    pull = - sum over positives of dL/ds (1 - s)        push = sum over negatives of dL/ds (1 - s)

Where pull > push, a collapse of all points lowers the loss. Expansion makes the hardest pairs the negatives. Their
1 - s is small early in a training, so the push falls and the pull does not. The plain table of the same batch is the
yardstick: the pull of the expanded table E is multiplied by

    lambda = clamp(r(E) / min(1, r(C)), 0, 1)           r = push / pull

for the plain table C. The value of the loss does not change.

For Euclidean distances, e moves every row towards one point. On the unit sphere, a contraction towards u moves s_xy by
e (x.u + y.u) (1 - s_xy) instead; "sphere" weighs pull and push by these factors, with u the mean of the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from embedding_expansion.core.batch import Batch
from embedding_expansion.core.pairs import Pairs
from embedding_expansion.core.terms import Terms, negatives_of_anchors
from embedding_expansion.errors import InvalidInput, InvalidType
from embedding_expansion.forms import Balance


def checked_balance(balance: Any, selective: Any) -> Balance:
    """Checks the arguments `balance` and `selective` of an expansion, and returns `balance`."""
    if not isinstance(selective, bool):
        raise InvalidType(f"selective is {selective!r}; pass True or False")
    if not isinstance(balance, bool) and balance != "sphere":
        raise InvalidInput(f"balance is {balance!r}; pass True, False or 'sphere'")
    if balance and selective:
        raise InvalidInput("balance and selective both reduce the pull; pass one of them")
    checked: Balance = balance
    return checked


class Forces(NamedTuple):
    """How a loss changes in a contraction, over the whole batch."""

    pull: Float[Tensor, ""]
    push: Float[Tensor, ""]
    has_negatives: Bool[Tensor, ""]


class Contraction:
    """A contraction of the tables that a loss reads, by an infinitesimal e.

    Attributes:
        share: lambda, by which the gradient of the positives is multiplied in backward passes; None: 1.
    """

    def __init__(self, embeddings: Tensor) -> None:
        self.along = _zeros(embeddings.dtype, embeddings.device)
        self.has_negatives: Tensor | None = None
        self.share: Tensor | None = None
        self.measured = False

    def watch(self, pairs: Pairs) -> Pairs:
        """The table of some anchors with the same values, and with gradients that reach this contraction."""
        there = negatives_of_anchors(pairs)[1].any()
        self.has_negatives = there if self.has_negatives is None else self.has_negatives | there
        speeds = (None, None) if pairs.speeds is None else pairs.speeds
        return replace(
            pairs,
            positive=_Contracted.apply(pairs.positive, speeds[0], self.along[0], self, True),
            negative=_Contracted.apply(pairs.negative, speeds[1], self.along[1], self, False),
        )

    def forces(self, terms: Terms, across: Callable[[Tensor], Tensor] | None) -> Forces:
        """Pull and push of the loss with these terms, whose tables have been watched.

        On several ranks, the terms are those of the anchors of this rank, and `across` sums over the ranks.
        """
        assert self.has_negatives is not None
        weight = terms.weight.detach().sum(dim=1)
        weight = weight if across is None else across(weight)
        of_total = weight.reciprocal().nan_to_num(posinf=0)[:, None].expand_as(terms.total)
        if terms.total.requires_grad:
            given: dict[str, Any] = {"grad_outputs": of_total, "retain_graph": True, "materialize_grads": True}
            minus_pull, push = torch.autograd.grad(terms.total, self.along, **given)
        else:  # losses of other libraries return a constant if nothing is active
            minus_pull, push = (torch.zeros_like(e) for e in self.along)
        self.measured = True
        with torch.no_grad():
            found = -minus_pull, push.detach(), self.has_negatives  # some releases of torch return leaves
            if across is None:
                return Forces(*found)
            pull, push, there = across(torch.stack([x.to(push.dtype) for x in found]))
            return Forces(pull, push, there > 0)


@functools.lru_cache(maxsize=4)
def _zeros(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """What e is in the tables of positives and of negatives. They are never changed, and never get a gradient."""
    with torch.inference_mode(False):
        first, second = (torch.zeros((), dtype=dtype, device=device, requires_grad=True) for _ in range(2))
        return first, second


class _Contracted(torch.autograd.Function):
    """The similarities s at e = 0. Its backward pass gives the derivative by e, and scales that of the positives."""

    @staticmethod
    def forward(
        ctx: Any, similarity: Tensor, speed: Tensor | None, along: Tensor, contraction: Contraction, positives: bool
    ) -> Tensor:
        ctx.save_for_backward(similarity, speed)
        ctx.contraction, ctx.positives = contraction, positives
        return similarity.view_as(similarity)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        contraction = ctx.contraction
        if contraction.measured:
            scaled = ctx.positives and contraction.share is not None
            return gradient * contraction.share if scaled else gradient, None, None, None, None
        similarity, speed = ctx.saved_tensors
        moved = 1 - similarity
        moved = moved if speed is None else moved * speed
        return None, None, torch.dot(moved.flatten(), gradient.flatten()), None, None


def pull_share(expanded: Forces, plain: Forces) -> Float[Tensor, ""]:
    """Lambda, from 0 to 1.

    It is 1 where pull(E) <= 0, where push(C) <= 0, or where E has no negatives; otherwise it is 0 where push(E) <= 0.
    r(C) counts as 1 where pull(C) <= 0.
    """
    yardstick = torch.where(plain.pull > 0, plain.push / plain.pull, 1).clamp(max=1)
    share = (expanded.push / (expanded.pull * yardstick)).clamp(0, 1)
    counts = (expanded.pull > 0) & (plain.push > 0) & expanded.has_negatives & (share >= 0)  # False for NaN
    return torch.where(counts, share, 1)


#: The names of `figures` besides "balance", which is lambda.
FIGURES = ("pull", "push", "plain_pull", "plain_push", "no_push")


def figures(expanded: Forces, plain: Forces, share: Float[Tensor, ""]) -> dict[str, Float[Tensor, ""]]:
    """The entries of `last_statistics`: lambda, pull and push of both tables, and whether the push was at most 0."""
    values = expanded.pull, expanded.push, plain.pull, plain.push, (expanded.push <= 0).to(share.dtype)
    return {"balance": share, **dict(zip(FIGURES, values, strict=True))}


def read_twice(batch: Batch, *, sphere: bool, whole: bool) -> Batch:
    """The batch for two tables: with heights for the sphere and, if it is read as a whole, with one Gram product."""
    if sphere:
        with torch.no_grad(), torch.autocast(batch.embeddings.device.type, enabled=False):
            rows = functional.normalize(batch.embeddings, dim=1)  # some losses of other libraries normalise later
            gallery = functional.normalize(batch.gallery, dim=1) if batch.has_reference else rows
            mean = (gallery if batch.proxies == "anchors" else rows).mean(dim=0)  # of the images, not of proxies
            height = rows @ mean
            batch = replace(batch, heights=(height, gallery @ mean if batch.has_reference else height))
    return replace(batch, keeps_product=whole)


class Draws:
    """The random state that a miner draws from, for drawing from the same state again.

    Args:
        miner: the miner; None: nothing draws, and nothing is kept.
        device: the device of the embeddings.
    """

    def __init__(self, miner: Any, device: torch.device) -> None:
        self.generator = getattr(miner, "generator", None)
        self.devices = [device] if device.type == "cuda" and miner is not None else []
        self.state = None if miner is None else torch.get_rng_state()
        self.of_device = [torch.cuda.get_rng_state(device) for device in self.devices]
        self.of_generator = None if self.generator is None else self.generator.get_state()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Goes back to that state inside the context, and to the present one on exit."""
        if self.state is None:
            yield
            return
        now = None if self.generator is None else self.generator.get_state()
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.state)
            for device, state in zip(self.devices, self.of_device, strict=True):
                torch.cuda.set_rng_state(state, device)
            if self.generator is not None:
                self.generator.set_state(self.of_generator)
            yield
        if self.generator is not None:
            self.generator.set_state(now)
