"""A small batch, a small network, and methods made for them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.generation import METHODS
from embedding_expansion.generation.method import Method
from embedding_expansion.methods import METHODS as TAKES

CLASSES, EACH, WIDTH, DIM = 4, 4, 6, 5
#: Lengths with which the second phase of every schedule comes at once.
SHORT: dict[str, dict[str, Any]] = {
    "daml": {"plain_steps": 1, "hidden": 8},
    "hdml": {"window": 1, "hidden": 8},
    "dvml": {"first_steps": 1, "draws": 2, "hidden": 8},
    "memvir": {"start": 0, "gap": 0},
}


@dataclass
class Setting:
    """A method on a network, in double precision."""

    method: Method
    trunk: nn.Module
    head: nn.Module
    images: Tensor
    labels: Tensor

    @property
    def network(self) -> nn.Module:
        return nn.ModuleList([self.trunk, self.head])

    def forward(self) -> tuple[Tensor, Tensor, Tensor]:
        features = self.trunk(self.images)
        return features, self.head(features), self.labels


def loss_for(method: str, name: str | None = None) -> PairLoss:
    """The loss of a method's paper, or another one that it takes."""
    takes = TAKES[method]
    name = str(takes.paper["name"]) if name is None else name
    given = {key: value for key, value in takes.paper.items() if key != "name" and name == takes.paper["name"]}
    if name in PROXY_LOSSES:
        return PROXY_LOSSES[name](CLASSES, DIM, **given)
    return LOSSES[name](normalize=name not in takes.unnormalized, **given)


def setting(name: str, loss: str | None = None, *, seed: int = 0, **options: Any) -> Setting:
    torch.manual_seed(seed)
    trunk, head = nn.Sequential(nn.Linear(7, WIDTH), nn.ReLU()), nn.Linear(WIDTH, DIM)
    images, labels = torch.randn(CLASSES * EACH, 7), torch.arange(CLASSES * EACH) % CLASSES
    given: dict[str, Any] = {"loss": loss_for(name, loss), "head": head, "width": WIDTH, "embedding_size": DIM}
    given |= {"num_classes": CLASSES, "batch_size": CLASSES * EACH}
    known = inspect.signature(METHODS[name]).parameters
    method = METHODS[name](**{key: value for key, value in given.items() if key in known}, **options)
    return Setting(method.double(), trunk.double(), head.double(), images.double(), labels)


@pytest.fixture(params=sorted(METHODS))
def name(request: pytest.FixtureRequest) -> str:
    """The name of each method in turn."""
    return str(request.param)
