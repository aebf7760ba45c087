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


_GENERATED = ("triplet", "n_pair")
_SYMMETRICAL = ("n_pair", "triplet", "lifted_structure", "angular")
#: What the methods of generation/ take, by their names.
METHODS: dict[str, Takes] = {
    "daml": Takes({"name": "triplet", "margin": 1.0}, _GENERATED, pairs=True, needs_head=True),
    "hdml": Takes({"name": "triplet", "margin": 1.0}, _GENERATED, unnormalized=_GENERATED, pairs=True, needs_head=True),
    "dvml": Takes({"name": "triplet", "margin": 1.0}),
    "symmetrical": Takes({"name": "n_pair"}, _SYMMETRICAL, unnormalized=("n_pair",), pairs=True),
    "loop": Takes(
        {"name": "multi_similarity", "alpha": 2.0, "beta": 50.0, "base": 0.4},
        ("multi_similarity", "triplet", "hphn_triplet", "lifted_structure", "n_pair"),
        unnormalized=("n_pair",),
        pairs=True,
    ),
    "proxy_synthesis": Takes({"name": "proxy_anchor"}, PROXIES),
    "das": Takes({"name": "multi_similarity"}),
    "iaa": Takes({"name": "multi_similarity"}),
    "metrix": Takes({"name": "multi_similarity"}, ("multi_similarity", "contrastive", "proxy_anchor")),
    "memvir": Takes({"name": "proxy_anchor"}, PROXIES),
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
