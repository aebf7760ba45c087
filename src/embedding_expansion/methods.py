"""The methods of `embex train --method` by name, with the losses that each takes; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from embedding_expansion.errors import InvalidInput, UnknownName

#: The losses on one proxy per class.
PROXIES = ("proxy_anchor", "proxy_nca", "normalized_softmax", "cosface", "arcface")
#: The losses on learnt points of a class, of which some have several.
_WITH_PARAMETERS_PER_CLASS = (*PROXIES, "sub_center_arcface", "soft_triple")


@dataclass(frozen=True)
class Takes:
    """What a method takes.

    Attributes:
        paper: the loss of its paper with its parameters, the default.
        losses: the names of all losses that it takes; empty for every loss that compares embeddings with each other.
        unnormalized: the losses that it computes of embeddings that are not L2-normalised.
        pairs: whether the images of a class are taken two at a time, so that their number must be even.
        needs_head: whether it embeds generated features, so that the model must have a head.
    """

    paper: Mapping[str, Any]
    losses: tuple[str, ...] = ()
    unnormalized: tuple[str, ...] = ()
    pairs: bool = False
    needs_head: bool = False

    def accepts(self, loss: str) -> bool:
        """Whether the method takes this loss."""
        return loss in self.losses if self.losses else loss not in _WITH_PARAMETERS_PER_CLASS

    def __str__(self) -> str:
        """The losses in words, that of the paper first."""
        name = self.paper["name"]
        others = [loss for loss in self.losses if loss != name]
        return ", ".join([name, *others]) if self.losses else f"{name}, or any other loss without proxies"


#: What the methods of generation/ take, by their names.
METHODS: dict[str, Takes] = {
    "das": Takes({"name": "multi_similarity"}),
}
#: The name that stands for training without a method.
NO_METHOD = "none"


def check_method(name: str, loss: str) -> None:
    """Checks that a method exists and takes a loss.

    Raises:
        UnknownName: there is no such method.
        InvalidInput: it does not take this loss.
    """
    if name == NO_METHOD:
        return
    if name not in METHODS:
        raise UnknownName("method", name, [*METHODS, NO_METHOD])
    if not METHODS[name].accepts(loss):
        raise InvalidInput(f"the method {name} does not take the loss {loss}; pass --loss {METHODS[name]}")


def described() -> str:
    """The methods with their losses, for `--help`."""
    return "; ".join(f"{name} ({takes})" for name, takes in METHODS.items())
