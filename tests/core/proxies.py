"""Proxy losses and batches to test them on: float64 proxies of five classes, of which the batch holds four."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import PROXY_LOSSES, ProxyLoss

from .batches import PAIRED, UNEQUAL, batch

C = 5
CENTERS: dict[str, tuple[str, int]] = {
    "sub_center_arcface": ("sub_centers", 3),
    "soft_triple": ("centers_per_class", 2),
}
NAMES = list(PROXY_LOSSES)
EXPANDABLE = [name for name in NAMES if not PROXY_LOSSES[name].not_expandable]
SCOPES = [
    *((name, None) for name in NAMES),
    *((name, scope) for name in EXPANDABLE for scope in ("class_pair", "negative")),
    *((name, "anchor") for name in EXPANDABLE if name != "proxy_anchor"),
]


def per_class(name: str) -> int:
    return CENTERS[name][1] if name in CENTERS else 1


def proxy_loss(name: str, d: int = 4, seed: int = 0, **options: Any) -> ProxyLoss:
    if name in CENTERS:
        options = {CENTERS[name][0]: CENTERS[name][1], **options}
    torch.manual_seed(seed)
    return PROXY_LOSSES[name](C, d, **options).double()


def with_scope(loss: ProxyLoss, scope: str | None, n: int = 2, **options: Any) -> Any:
    return loss if scope is None else EmbeddingExpansion(loss, n=n, scope=scope, **options)


def numbered_batch(scope: str | None = None, seed: int = 0, *, d: int = 4, unit: bool = False) -> tuple[Tensor, Tensor]:
    """Labels 0, 1, 3, 4 (or three of them), neither in order nor all five."""
    sizes = PAIRED if scope == "anchor" else UNEQUAL
    E, labels = batch(sizes, d, seed, unit=unit, paired=scope == "anchor")
    return E, torch.tensor([4, 0, 3, 1])[torch.unique(labels, return_inverse=True)[1]]
