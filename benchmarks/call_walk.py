"""Counts the files and the moves between files from a loss's call to its value.

    python benchmarks/call_walk.py

A move is a call from one file of the package into another. The files are those that the call enters, that of the loss
module in which it begins not counted. The backward pass is not part of the walk, nor are `numbers.py` and `kept.py`,
which no embedding enters: they read labels, and look up what was kept for a pattern of labels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import embedding_expansion
from embedding_expansion import EmbeddingExpansion, MultiSimilarityLoss, PairLoss

PACKAGE = Path(embedding_expansion.__file__).parent
OF_LABELS = {Path("core/numbers.py"), Path("core/kept.py")}


def walk(call: Callable[[], Any]) -> list[tuple[str, str]]:
    """The moves of a call, each as (file and function left, file and function entered)."""
    moves: list[tuple[str, str]] = []

    def file_of(frame: FrameType) -> Path | None:
        path = Path(frame.f_code.co_filename)
        return path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else None

    def note(frame: FrameType, event: str, _: Any) -> None:
        entered = file_of(frame) if event == "call" else None
        caller = frame.f_back
        while caller is not None and file_of(caller) is None:
            caller = caller.f_back
        if entered is None or caller is None:
            return
        left = file_of(caller)
        if left != entered and not {left, entered} & OF_LABELS:
            moves.append((f"{left}:{caller.f_code.co_name}", f"{entered}:{frame.f_code.co_name}"))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return moves


def walk_of_loss(loss: PairLoss) -> tuple[list[str], list[tuple[str, str]]]:
    """The files that a call of the loss enters on a batch of 16 classes of 4, and the moves between them."""
    embeddings = torch.randn(64, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(16).repeat_interleave(4)
    loss(embeddings, labels)  # what is loaded or kept by a first call is there
    moves = walk(lambda: loss(embeddings, labels))
    entered = {move[1].split(":")[0] for move in moves} - {moves[0][0].split(":")[0]}
    return sorted(entered), moves


def main() -> None:
    plain = MultiSimilarityLoss()
    for name, loss in (("expanded", EmbeddingExpansion(plain, n=2)), ("plain", plain)):
        files, moves = walk_of_loss(loss)
        print(f"{name}: {len(files)} files, {len(moves)} moves")
        print(f"  files: {', '.join(files)}")
        for left, entered in moves:
            print(f"  {left} -> {entered}")


if __name__ == "__main__":
    main()
