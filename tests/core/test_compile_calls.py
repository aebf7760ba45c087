"""The other half of `test_compile.py`: what a call of a compiled loss may bring."""

from __future__ import annotations

from .test_compile import CALLS, check, needs_torch


@needs_torch
def test_what_a_call_brings_compiles_without_graph_breaks() -> None:
    check(*CALLS)
