"""Write the glyphs as image files and a CSV table: with wrong training labels, or with fewer training classes.

    python benchmarks/noisy_glyphs.py runs/noisy --noise 0.3
    embex train --data runs/noisy/glyphs.csv --data.transform none --data.workers 0 --model.channels 1

With `--noise 0` and all classes, these options train on the images of `--data glyphs`, except that a grey value is the
mean of three equal values, which rounds. Each training image keeps its label with probability 1 - noise. Otherwise it
gets the label of another training class, drawn uniformly. The labels of the test images are right.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from embedding_expansion.data.glyphs import open_glyphs
from embedding_expansion.data.images import ImageSet


def flipped(labels: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """Return the labels, each replaced by another class with probability `noise`."""
    rng, classes = np.random.default_rng(seed), np.unique(labels)
    wrong = rng.random(len(labels)) < noise
    steps = rng.integers(1, len(classes), size=len(labels))  # never 0: another class
    place = np.searchsorted(classes, labels)
    return np.where(wrong, classes[(place + steps) % len(classes)], labels)


def chosen(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """Return the images of `count` random classes, by default of all classes."""
    if count is None:
        return images
    kept = np.random.default_rng(seed).permutation(images.classes)[:count]
    return images.subset(np.flatnonzero(np.isin(images.labels, kept)))


def write(folder: Path, noise: float, train_classes: int | None, seed: int) -> None:
    """Write the images and `glyphs.csv` into the folder."""
    glyphs = open_glyphs()
    train = chosen(glyphs.train, train_classes, seed)
    sides = {"train": (train, flipped(train.labels, noise, seed)), "test": (glyphs.test, glyphs.test.labels)}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "glyphs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "split"))
        for side, (images, labels) in sides.items():
            for index, label in enumerate(labels):
                path = Path("images") / f"{side}-{index}.png"
                Image.fromarray(images.load(index)[0].numpy()).save(folder / path)
                table.writerow((path, label, side))
    wrong = np.mean(sides["train"][1] != train.labels)
    print(f"{folder / 'glyphs.csv'}: {len(train)} training images of {len(train.classes)} classes, {wrong:.1%} wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the glyphs with wrong labels or fewer classes.")
    parser.add_argument("folder", type=Path, help="folder for the images and glyphs.csv")
    parser.add_argument("--noise", type=float, default=0.0, help="probability of a wrong training label")
    parser.add_argument("--train_classes", type=int, help="number of training classes, drawn at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    given = parser.parse_args()
    write(given.folder, given.noise, given.train_classes, given.seed)


if __name__ == "__main__":
    main()
