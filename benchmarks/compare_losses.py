"""Train every loss plain and expanded, with the same settings and seeds, and print what came out as a table.

    python benchmarks/compare_losses.py --out runs/omniglot --seeds 0 1 2 -- --data omniglot --data.root DIR --steps 400

Everything after `--` goes to every `embex train` as it stands. A run that is already there is not run again, so an
interrupted comparison continues where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

LOSSES = ("triplet", "hphn_triplet", "n_pair", "lifted_structure", "multi_similarity")
SHOWN = ("recall_at_1", "map_at_r", "nmi", "f1")


def train(out: Path, loss: str, arm: str, seed: int, options: list[str]) -> None:
    """One run in a process of its own, unless it is there."""
    if (out / "metrics.json").exists():
        return
    command = [sys.executable, "-m", "embedding_expansion", "train", "--loss", loss, "--seed", str(seed)]
    expansion = ["--expansion", "none"] if arm == "plain" else ["--expansion.n", arm]
    subprocess.run([*command, *expansion, "--out", str(out), *options], check=True)


def cell(values: list[float]) -> str:
    """Mean and range in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def table(out: Path, losses: list[str], arms: list[str], seeds: list[int]) -> str:
    """The table in Markdown: a row per loss and arm, mean over the seeds with the range."""
    lines = [f"| loss | expansion | {' | '.join(SHOWN)} | images/s |", "|" + "---|" * (len(SHOWN) + 3)]
    for loss, arm in itertools.product(losses, arms):
        runs = [json.loads((out / f"{loss}-{arm}-{seed}" / "metrics.json").read_text()) for seed in seeds]
        shown = [cell([run[key] for run in runs]) for key in SHOWN]
        speed = f"{statistics.median(run['images_per_second'] for run in runs):.0f}"
        lines.append(f"| {loss} | {'none' if arm == 'plain' else f'n = {arm}'} | {' | '.join(shown)} | {speed} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains every loss plain and expanded and prints a table.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--arms", nargs="+", default=["plain", "2"], help="plain, or a number of synthetic points")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("options", nargs="*", help="after --: what goes to every embex train")
    given = parser.parse_args()
    for seed, loss, arm in itertools.product(given.seeds, given.losses, given.arms):
        train(given.out / f"{loss}-{arm}-{seed}", loss, arm, seed, given.options)
    print(table(given.out, given.losses, given.arms, given.seeds))


if __name__ == "__main__":
    main()
