"""Draw leave-one-out retrieval and its measures: python docs/drawing/retrieval.py [FILE].

The images are glyphs, compared by their pixels, so that some answers are wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from style import COLOURS, DOCS, save
from torch.nn.functional import normalize

from embedding_expansion import nearest, retrieval_values
from embedding_expansion.data.glyphs import render

LETTERS, IMAGES, PLACES = "ABEKRT", 5, 8
QUERIES = (4, 5, 10)
NAMES = {
    "recall_at_1": "Recall@1",
    "recall_at_4": "Recall@4",
    "r_precision": "R-precision",
    "map_at_r": "MAP@R",
    "mrr": "MRR",
}


def collection() -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Return the images, their pixels as unit rows, and their classes."""
    images = render(LETTERS, IMAGES, seed=0)[:, 0]
    rows = torch.from_numpy(images.reshape(len(images), -1)).double()
    return images, normalize(rows - rows.mean(dim=0), dim=1), np.repeat(np.arange(len(LETTERS)), IMAGES)


def show(axes: Axes, image: np.ndarray, colour: str, text: str, style: str = "-") -> None:
    """Draw an image in a frame with a line of text below."""
    axes.imshow(image, cmap="gray", interpolation="none", vmin=0, vmax=255)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(text, fontsize=8, labelpad=2)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5, linestyle=style)


def main(file: str | Path = DOCS / "retrieval.svg") -> None:
    """Draw the figure."""
    images, rows, classes = collection()
    _, found = nearest(rows, rows, k=PLACES, exclude=range(len(rows)))
    values = retrieval_values(rows, classes, ks=(1, 4), more=("mrr",))
    figure, places = plt.subplots(
        len(QUERIES), PLACES + 2, figsize=(9.6, 3.6), layout="constrained", width_ratios=[1] * (PLACES + 1) + [2.6]
    )
    for line, query in zip(places, QUERIES, strict=True):
        show(line[0], images[query], "black", "query")
        hits = 0
        for place, (axes, row) in enumerate(zip(line[1:-1], found[query].tolist(), strict=True), start=1):
            right = classes[row] == classes[query]
            hits += right
            colour, style = (COLOURS[2], "-") if right else (COLOURS[1], ":")
            show(axes, images[row], colour, f"P({place}) = {hits}/{place}" if right else "", style)
            if query == QUERIES[0]:
                axes.set_title(f"{place}" if place != IMAGES - 1 else f"{place} = R", fontsize=9)
        names = {
            "recall_at_1": "Recall@1",
            "recall_at_4": "Recall@4",
            "r_precision": "R-precision",
            "map_at_r": "MAP@R",
        }
        text = "\n".join(f"{name}  {values[key][query]:.2f}" for key, name in (names | {"mrr": "MRR"}).items())
        line[-1].text(0.08, 0.5, text, fontsize=9, va="center", linespacing=1.35)
        line[-1].axis("off")
    save(figure, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
