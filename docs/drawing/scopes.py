"""Draw the points on the anchor's side in either scope: python docs/drawing/scopes.py [FILE]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from style import COLOURS, DOCS, MARKERS, arc, on_sphere, save, sphere

from embedding_expansion import hardest
from embedding_expansion.forms import Scope

PLANE = [[-0.45, 0.75], [-0.8, 0.1], [-0.15, 0.05], [-0.3, -0.75], [0.75, 0.5], [0.35, 0.8], [0.8, -0.3], [0.3, -0.5]]
POINTS, LABELS = on_sphere(torch.tensor(PLANE)), torch.arange(8) // 4
N, ANCHOR = 2, 0


def draw(axes: Axes, scope: Scope) -> None:
    """Draw the anchor, the segments that take part, and the anchor's negative."""
    sphere(axes, f'scope="{scope}"')
    partners = {"class_pair": [(i, j) for i in range(8) for j in range(i) if i // 4 == j // 4]}
    for i, j in partners.get(scope, [(1, 0), (3, 2), (5, 4), (7, 6)]):
        ours = scope == "class_pair" or ANCHOR in (i, j) or i >= 4
        label = i // 4
        axes.plot(*arc(POINTS[i], POINTS[j]), color=COLOURS[label], linewidth=1, alpha=0.6 if ours else 0.25, zorder=1)
        for k in range(1, N + 1):
            point = (k * POINTS[j] + (N + 1 - k) * POINTS[i]) / (N + 1)
            point = point / point.norm()
            style = {"facecolor": "white", "edgecolor": COLOURS[label], "marker": MARKERS[label]}
            axes.scatter(*point[:2], s=22, zorder=2, alpha=1 if ours else 0.3, **style)
    for label in (0, 1):
        axes.scatter(*POINTS[label == LABELS][:, :2].T, color=COLOURS[label], marker=MARKERS[label], s=46, zorder=3)
    axes.scatter(*POINTS[ANCHOR, :2], facecolor="none", edgecolor="black", s=170, zorder=4)
    axes.annotate("anchor", POINTS[ANCHOR, :2], (-14, 12), textcoords="offset points", fontsize=9, ha="center")
    winners = hardest(POINTS, LABELS, N, scope=scope)
    row = 0 if scope == "class_pair" else ANCHOR
    pair = torch.stack([w @ POINTS[e] for e, w in zip(winners.ends[row, 1], winners.weights[row, 1], strict=True)])
    pair = pair / pair.norm(dim=1, keepdim=True)
    axes.plot(*arc(*pair), color="black", linewidth=2, zorder=5)
    axes.text(0, -1.22, f"its negative: distance {float((pair[0] - pair[1]).norm()):.2f}", ha="center", fontsize=9)


def main(file: str | Path = DOCS / "scopes.svg") -> None:
    """Draw the figure."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.9), layout="constrained")
    draw(axes[0], "class_pair")
    draw(axes[1], "anchor")
    save(figure, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
