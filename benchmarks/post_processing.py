"""Measure what each step of post-processing gains on the test classes of a run, and print a table.

    python benchmarks/post_processing.py RUN --out FILE.json

Each step is measured with its defaults, and with the best settings of a grid by MAP@R on one half of the TRAINING
classes, with whitening fitted on the other half. No setting is chosen on the test classes. `--features` measures the
pooled features of the backbone instead of the embeddings. `--chosen FILE.json` uses the settings chosen for another
table: a trained network has memorised its training classes, so they say little about the best settings for new ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedding_expansion.data.images import ImageSet
from embedding_expansion.model.weights import load_tensors
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.evaluation import measure_post_processed, measure_retrieval
from embedding_expansion.training.job import prepare

DEFAULTS = {
    "whiten": Steps(whiten="all"),
    "dba": Steps(dba=10),
    "qe": Steps(qe=10),
    "dba + qe": Steps(dba=10, qe=10),
    "reciprocal": Steps(reciprocal=20),
    "diffusion": Steps(diffusion=50),
}
SHOWN = ("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "r_precision", "map_at_r")


def grid(name: str) -> Iterator[Steps]:
    """Return the candidate settings for a step."""
    neighbours, alphas = (1, 2, 5, 10, 20), (0.0, 1.0, 3.0, 10.0, 30.0)
    if name == "whiten":
        for dimensions, shrinkage in itertools.product((32, 64, 128, 256, "all"), (0.0, 0.1, 0.5)):
            yield Steps(whiten=dimensions, shrinkage=shrinkage)  # type: ignore[arg-type]
    elif name in ("dba", "qe"):
        for k, alpha in itertools.product(neighbours, alphas):
            yield Steps(alpha=alpha, **{name: k})
    elif name == "dba + qe":
        for dba, qe, alpha in itertools.product(neighbours, neighbours, (0.0, 3.0, 10.0)):
            yield Steps(dba=dba, qe=qe, alpha=alpha)
    elif name == "reciprocal":
        for k1, k2, weight in itertools.product((10, 20, 40, 80), (1, 3, 6, 12), (0.1, 0.3, 0.5)):
            yield Steps(reciprocal=k1, k2=k2, distance_weight=weight)
    else:
        for k in (3, 5, 10, 20, 50, 100):
            yield Steps(diffusion=k)


class Measured:
    """Return one side of the data, embedded."""

    def __init__(self, vectors: Tensor, images: ImageSet, ks: tuple[int, ...]) -> None:
        self.vectors, self.images, self.ks = vectors, images, ks

    def classes(self, chosen: np.ndarray) -> Measured:
        rows = np.flatnonzero(np.isin(self.images.labels, chosen))
        return Measured(self.vectors[rows], self.images.subset(rows), self.ks)

    def plain(self) -> dict[str, Any]:
        return measure_retrieval(self.vectors, self.images, self.ks)

    def after(self, steps: Steps, training: Tensor) -> dict[str, Any]:
        start = time.perf_counter()
        measures = measure_post_processed(self.vectors, self.images, self.ks, steps, training)
        return measures | {"seconds": time.perf_counter() - start}


def embedded(run: Path, features: bool) -> tuple[Measured, Measured]:
    """Return the training and the test classes, embedded."""
    config = replace(RunFolder(run).read_config(), protocol="last", threads=1)
    job = prepare(config, fetch_weights=False)
    job.model.load_state_dict(load_tensors(RunFolder(run).model)[0])
    job.model.eval()

    @torch.no_grad()
    def pooled(images: Tensor) -> Tensor:
        return job.model.features(images.to(job.device))

    train, test = (
        Measured(*(job.run_over(images, pooled) if features else job.embed(images)), job.dataset.recall_at)
        for images in (job.dataset.train, job.dataset.test)
    )
    print(f"{job.dataset.name}: {len(train.images)} train, {len(test.images)} test", flush=True)
    return train, test


def choose(train: Measured) -> dict[str, Steps]:
    """Choose the best of each grid on the second half of the training classes, with and without the best whitening."""
    classes = np.random.default_rng(0).permutation(train.images.classes)
    fit, held = (train.classes(part) for part in np.array_split(classes, 2))

    def best(candidates: Iterator[Steps], before: Steps) -> Steps:
        given = {name: value for name, value in asdict(before).items() if value is not None}
        tried = [replace(steps, **given) for steps in candidates]
        return max(tried, key=lambda steps: held.after(steps, fit.vectors)["map_at_r"])

    chosen = {}
    for name in DEFAULTS:
        chosen[name] = best(grid(name), Steps())
        print(f"chosen on training classes: {chosen[name]}", flush=True)
    for name in ("dba + qe", "reciprocal", "diffusion"):
        chosen[f"whiten + {name}"] = best(grid(name), chosen["whiten"])
        print(f"chosen on training classes: {chosen[f'whiten + {name}']}", flush=True)
    return chosen


def line(name: str, measures: dict[str, Any]) -> str:
    cells = " | ".join(f"{100 * measures[key]:.1f}" for key in SHOWN)
    return f"| {name} | {cells} | {measures['seconds']:.1f} s |" if "seconds" in measures else f"| {name} | {cells} | |"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("--features", action="store_true", help="measure the backbone's pooled features")
    options.add_argument("--chosen", type=Path, help="JSON file of another table, whose chosen settings are used")
    options.add_argument("--out", type=Path, required=True)
    given = options.parse_args()
    train, test = embedded(given.run, given.features)
    if given.chosen is None:
        chosen = choose(train)
    else:
        chosen = {name: Steps(**steps) for name, steps in json.loads(given.chosen.read_text())["chosen"].items()}
    rows: dict[str, dict[str, Any]] = {"plain": test.plain()}
    for what, all_steps in (("", DEFAULTS), ("chosen: ", chosen)):
        for steps in all_steps.values():
            rows[f"{what}{steps}"] = test.after(steps, train.vectors)
    content = {"chosen": {name: asdict(steps) for name, steps in chosen.items()}, "rows": rows}
    given.out.write_text(json.dumps(content, indent=2))
    print("| steps | R@1 | R@2 | R@4 | R@8 | R-precision | MAP@R | time |\n|---|---|---|---|---|---|---|---|")
    for name, measures in rows.items():
        print(line(name, measures))


if __name__ == "__main__":
    main()
