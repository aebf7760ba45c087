"""Draw the decision of a similarity threshold: python docs/drawing/threshold.py [FILE].

The embeddings are synthetic: 30 classes of 20 rows, each around its class mean.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from style import COLOURS, DOCS, save

from embedding_expansion import verification

CLASSES, ROWS, RATE = 30, 20, 0.01


def main(file: str | Path = DOCS / "threshold.svg") -> None:
    """Draw the figure."""
    random, classes = np.random.default_rng(0), np.repeat(np.arange(CLASSES), ROWS)
    rows = random.normal(size=(CLASSES, 16))[classes] + 0.65 * random.normal(size=(CLASSES * ROWS, 16))
    threshold = verification(rows, classes).threshold(false_alarm_rate=RATE)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(len(rows), 1)
    cosines, same = (unit @ unit.T)[first, second], classes[first] == classes[second]
    figure, axes = plt.subplots(figsize=(7.2, 2.7), layout="constrained")
    bins = np.linspace(cosines.min(), cosines.max(), 45).tolist()
    kinds = {"pairs of different classes": (~same, COLOURS[1]), "pairs of one class": (same, COLOURS[0])}
    for name, (chosen, colour) in kinds.items():
        axes.hist(
            cosines[chosen], bins, density=True, label=name, color=colour + "40", ec=colour, histtype="stepfilled"
        )
    axes.axvline(threshold.value, color="black", linewidth=2)
    said = f"threshold {threshold.value:.2f}: accepts \n{threshold.hit_rate:.0%} of the pairs of one class, \n"
    said += f"{threshold.reached:.1%} of the others "
    axes.text(threshold.value, axes.get_ylim()[1] * 0.82, said, fontsize=9, ha="right", va="center")
    axes.set_xlabel("cosine of a pair", fontsize=9)
    axes.set_yticks([])
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=9, frameon=False, loc="upper left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    save(figure, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
