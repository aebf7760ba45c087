"""Draw n points on a segment and the whole arc: python docs/drawing/arcs.py [FILE]."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from style import COLOURS, DOCS, MARKERS, arc, on_sphere, save, sphere
from torch import Tensor

from embedding_expansion import hardest, synthesize

POINTS = on_sphere(torch.tensor([[0.33, -0.14], [-0.55, -0.01], [0.03, 0.9], [0.4, -0.71]]))
LABELS = torch.tensor([0, 0, 1, 1])
SHOWN = range(16)


def hardest_pair(n: float) -> Tensor:
    """Return the two closest points of the classes, originals or synthetic."""
    winners = hardest(POINTS, LABELS, n)
    pair = torch.stack([w @ POINTS[e] for e, w in zip(winners.ends[0, 1], winners.weights[0, 1], strict=True)])
    return pair / pair.norm(dim=1, keepdim=True)


def distance(n: float) -> float:
    """Return the distance of the hardest pair."""
    a, b = hardest_pair(n)
    return float((a - b).norm())


def draw(axes: Axes, n: float) -> None:
    """Draw the two arcs, the points that take part, and the hardest pair."""
    whole = math.isinf(n)
    sphere(axes, "the whole arc" if whole else f"n = {n:.0f}")
    for label, (colour, marker) in enumerate(zip(COLOURS, MARKERS, strict=False)):
        ends = POINTS[label == LABELS]
        if len(ends):
            axes.plot(*arc(*ends), color=colour, linewidth=3.5 if whole else 0.8, alpha=0.5, zorder=1)
            axes.scatter(*ends[:, :2].T, color=colour, marker=marker, s=46, zorder=3)
            if not whole:
                synthetic, of = synthesize(POINTS, LABELS, int(n))
                made = synthetic[of == label][:, :2].T
                axes.scatter(*made, facecolor="white", edgecolor=colour, marker=marker, s=26, zorder=2)
    axes.plot(*arc(*hardest_pair(n)), color="black", linewidth=2, zorder=4)
    axes.text(0, -1.22, f"distance {distance(n):.3f}", ha="center", fontsize=9)


def draw_curve(axes: Axes) -> None:
    """Draw the distance of the hardest pair as n grows."""
    axes.plot(SHOWN, [distance(n) for n in SHOWN], color=COLOURS[0], marker=".", label="n points")
    axes.axhline(distance(math.inf), color="black", linestyle="--", linewidth=1, label="the whole arc")
    axes.set_xlabel("n", fontsize=9)
    axes.set_title("distance of the hardest pair", fontsize=10)
    axes.set_ylim(0)
    axes.set_xticks(range(0, len(SHOWN), 5))
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def main(file: str | Path = DOCS / "arcs.svg") -> None:
    """Draw the figure."""
    figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.7), layout="constrained", width_ratios=[1, 1, 1, 1.1])
    for place, n in zip(axes, (0, 2, math.inf), strict=False):
        draw(place, n)
    draw_curve(axes[3])
    save(figure, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
