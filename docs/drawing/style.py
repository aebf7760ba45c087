"""Shared by the drawings: colours that colour-blind readers can distinguish, and reproducible files."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor
from torch.nn.functional import normalize

COLOURS = ("#0072B2", "#D55E00", "#009E73")
MARKERS = ("o", "s", "^")
DOCS = Path(__file__).parents[1]


def save(figure: Figure, file: Path) -> None:
    """Save the figure as SVG with its text as outlines, so it needs no font."""
    plt.rcParams["svg.hashsalt"] = "embedding-expansion"
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def on_sphere(plane: Tensor) -> Tensor:
    """Return points on the upper half of the unit sphere from their positions in the plane."""
    return torch.cat([plane, (1 - plane.square().sum(dim=1, keepdim=True)).sqrt()], dim=1)


def arc(a: Tensor, b: Tensor) -> Tensor:
    """Return the great circle from one point to another, as seen from above."""
    k = torch.linspace(0, 1, 50)[:, None]
    return normalize((1 - k) * a + k * b, dim=1)[:, :2].T


def sphere(axes: Axes, title: str) -> None:
    """Draw the unit sphere from above, with room for a line of text below."""
    axes.add_patch(Circle((0, 0), 1, facecolor="0.97", edgecolor="0.8", zorder=0))
    axes.set_title(title, fontsize=10)
    axes.set(aspect="equal", xlim=(-1.1, 1.1), ylim=(-1.32, 1.05))
    axes.axis("off")
