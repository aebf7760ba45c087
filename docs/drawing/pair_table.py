"""Draw the table that a pair loss reads, plain and expanded: python docs/drawing/pair_table.py [FILE]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from style import COLOURS, DOCS, save
from torch.nn.functional import normalize

from embedding_expansion import compare, expand

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
_RANDOM = torch.Generator().manual_seed(1714)  # classes that expansion brings closer, all three
_MEANS = torch.randn(3, 4, generator=_RANDOM).repeat_interleave(2, dim=0)
EMBEDDINGS = normalize(_MEANS + 0.9 * torch.randn(6, 4, generator=_RANDOM), dim=1)
NAMES = ("$a_1$", "$a_2$", "$b_1$", "$b_2$", "$c_1$", "$c_2$")
CLASSES = ("$A$", "$B$", "$C$")


def cell(axes: Axes, row: int, column: int, text: str, colour: str | None, hatch: str = "") -> None:
    """Draw one entry; its colour and hatching show its kind."""
    face = "white" if colour is None else colour + "30"
    axes.add_patch(Rectangle((column, -row), 1, -1, facecolor=face, edgecolor="0.6", linewidth=0.6, hatch=hatch))
    axes.text(column + 0.5, -row - 0.5, text, ha="center", va="center", fontsize=9)


def headings(axes: Axes, title: str, columns: tuple[str, ...], left: float) -> None:
    """Write the names of anchors and columns."""
    for row, name in enumerate(NAMES):
        axes.text(-0.35, -row - 0.5, name, ha="center", va="center", color=COLOURS[LABELS[row]], fontsize=11)
    for column, name in enumerate(columns):
        label = LABELS[column] if len(columns) == len(NAMES) else column
        axes.text(left + column + 0.5, 0.35, name, ha="center", va="center", color=COLOURS[label], fontsize=11)
    axes.set_title(title, fontsize=10, pad=14)
    axes.set(aspect="equal", xlim=(-0.8, 6.1), ylim=(-6.1, 0.7))
    axes.axis("off")


def draw_plain(axes: Axes) -> None:
    """Draw the table of every anchor against every row."""
    pairs = compare(EMBEDDINGS, LABELS, metric="inner")
    headings(axes, "plain: every other image is one column", NAMES, 0)
    for row in range(6):
        for column in range(6):
            if row == column:
                cell(axes, row, column, "", None, "////")
            elif LABELS[row] == LABELS[column]:
                cell(axes, row, column, f"{float(pairs.positive[row, 0]):.2f}", COLOURS[2])
            else:
                cell(axes, row, column, f"{float(pairs.negative[row, column]):.2f}", COLOURS[1])


def draw_expanded(axes: Axes) -> None:
    """Draw the table with the positive of every anchor and one negative per class."""
    pairs = expand(EMBEDDINGS, LABELS, n=2, metric="inner")
    headings(axes, "expanded: every other class is one column", CLASSES, 2)
    axes.text(0.5, 0.35, "positive", ha="center", va="center", fontsize=9)
    for row in range(6):
        cell(axes, row, 0, f"{float(pairs.positive[row, 0]):.2f}", COLOURS[2])
        for column in range(3):
            if LABELS[row] == column:
                cell(axes, row, 2 + column, "", None, "////")
            else:
                cell(axes, row, 2 + column, f"{float(pairs.negative[row, column]):.2f}", COLOURS[1])


def main(file: str | Path = DOCS / "pair-table.svg") -> None:
    """Draw the figure."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.9), layout="constrained")
    draw_plain(axes[0])
    draw_expanded(axes[1])
    save(figure, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
