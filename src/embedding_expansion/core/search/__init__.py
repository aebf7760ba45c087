"""The search for the hardest pairs of points in inner products: in Triton on a GPU, in C on the CPU, and in torch."""

from __future__ import annotations

import torch

from embedding_expansion.core.search import native, triton


def describe(device: str) -> str:
    """Which search runs on a device for a finite n, in words: "Triton", "native (AVX-512)", "torch"."""
    on_gpu = device.startswith("cuda") and triton.available(torch.device("cuda"))
    return "Triton" if on_gpu else native.describe(device)
