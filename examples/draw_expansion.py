"""Draw what embedding expansion does to two classes on the unit sphere: docs/expansion.svg.

python examples/draw_expansion.py [FILE]
"""

import sys

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from embedding_expansion import hardest, synthesize

PLANE = torch.tensor([[-0.3, 0.66], [-0.2, -0.66], [-0.8, -0.1], [0.28, 0.02], [0.72, 0.5], [0.72, -0.46]])
LABELS = torch.tensor([0, 0, 0, 1, 1, 1])
COLOURS = ("#0072B2", "#D55E00")
MARKERS = ("o", "s")


def on_sphere(plane: torch.Tensor) -> torch.Tensor:
    """Return points on the upper half of the unit sphere from their positions in the plane."""
    return torch.cat([plane, (1 - plane.square().sum(dim=1, keepdim=True)).sqrt()], dim=1)


def arc(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the great circle from one point to another, as seen from above."""
    k = torch.linspace(0, 1, 50)[:, None]
    return torch.nn.functional.normalize((1 - k) * a + k * b, dim=1)[:, :2].T


def draw(axes: Axes, points: torch.Tensor, n: int) -> None:
    """Draw the originals, n synthetic points per pair, and the hardest pair of the two classes."""
    axes.add_patch(Circle((0, 0), 1, facecolor="0.97", edgecolor="0.8", zorder=0))
    synthetic, labels = synthesize(points, LABELS, n)
    for label, (colour, marker) in enumerate(zip(COLOURS, MARKERS, strict=True)):
        of_class = points[label == LABELS]
        for i in range(len(of_class)):
            for j in range(i):
                axes.plot(*arc(of_class[i], of_class[j]), color=colour, linewidth=0.8, alpha=0.5, zorder=1)
        axes.scatter(*of_class[:, :2].T, color=colour, marker=marker, s=46, zorder=3, label=f"class {label}")
        made = synthetic[labels == label]
        axes.scatter(*made[:, :2].T, facecolor="white", edgecolor=colour, marker=marker, s=26, zorder=2)
    winners = hardest(points, LABELS, n)
    pair = torch.stack([w @ points[e] for e, w in zip(winners.ends[0, 1], winners.weights[0, 1], strict=True)])
    pair = pair / pair.norm(dim=1, keepdim=True)
    axes.plot(*arc(*pair), color="black", linewidth=2, zorder=4)
    distance = float((pair[0] - pair[1]).norm())
    axes.set_title("without synthetic points" if n == 0 else f"n = {n} synthetic points per pair", fontsize=10)
    axes.text(0, -1.2, f"hardest pair: distance {distance:.2f}", ha="center", fontsize=9)
    axes.set_aspect("equal")
    axes.set_xlim(-1.1, 1.1)
    axes.set_ylim(-1.3, 1.05)
    axes.axis("off")


def main(file: str = "docs/expansion.svg") -> None:
    plt.rcParams["svg.hashsalt"] = "embedding-expansion"  # the same file every time
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.9), layout="constrained")
    points = on_sphere(PLANE)
    draw(axes[0], points, n=0)
    draw(axes[1], points, n=2)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
