"""Train every loss plain and expanded, with the same settings and seeds, and print the results as a table.

    python benchmarks/compare_losses.py --out runs/omniglot --seeds 0 1 2 -- --data omniglot --data.root DIR --steps 400

Everything after `--` is passed to every `embex train` unchanged. Completed runs are not run again, and stopped runs
continue from their last checkpoint, so an interrupted comparison can be resumed. A failed run, for example one that
diverged, is noted in its folder and in the table. `--losses all` runs every loss. Losses that cannot be expanded only
run plain.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from embedding_expansion import LOSSES as PAIR_LOSSES
from embedding_expansion import PROXY_LOSSES
from embedding_expansion.app.cli import main as embex

BY_NAME = {**PAIR_LOSSES, **PROXY_LOSSES}
LOSSES = ("triplet", "hphn_triplet", "n_pair", "lifted_structure", "multi_similarity")
SHOWN = ("recall_at_1", "map_at_r", "nmi", "f1")
FAILED = "failed.txt"


def train(out: Path, loss: str, arm: str, seed: int, options: list[str]) -> None:
    """Run one training, unless it is complete or has failed."""
    if (out / "metrics.json").exists() or (out / FAILED).exists():
        return
    if (out / "config.yaml").exists():
        given = ["--resume", str(out)]
    else:
        expansion = ["--expansion", "none"] if arm == "plain" else ["--expansion.n", arm]
        given = ["--loss", loss, "--seed", str(seed), *expansion, "--out", str(out), *options]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        status = embex(["train", *given])
    sys.stdout.flush()
    if status >= 128:  # a signal stopped it, and it has saved a checkpoint
        os._exit(status)
    if status and not out.exists():  # the options are invalid
        raise SystemExit(errors.getvalue())
    if status:
        (out / FAILED).write_text(errors.getvalue())


def cell(values: list[float]) -> str:
    """Format the mean and the range in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def synthetic_share(run: Path) -> float | None:
    """Return the share of synthetic points in the last line of the log that has one."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = [line["synthetic_share"] for line in lines if "synthetic_share" in line]
    return found[-1] if found else None


def row(runs: list[Path]) -> list[str]:
    """Return the cells of one loss and arm: measures over the seeds, share of synthetic points, speed."""
    if any((run / FAILED).exists() for run in runs):
        return ["failed"] * (len(SHOWN) + 2)
    results: list[dict[str, Any]] = [json.loads((run / "metrics.json").read_text()) for run in runs]
    shares = [share for share in map(synthetic_share, runs) if share is not None]
    return [
        *(cell([result[key] for result in results]) for key in SHOWN),
        cell(shares) if shares else "",
        f"{statistics.median(result['images_per_second'] for result in results):.0f}",
    ]


def table(out: Path, losses: list[str], arms: list[str], seeds: list[int]) -> str:
    """Return the table in Markdown: a row per loss and arm, with the mean and range over the seeds."""
    lines = [f"| loss | expansion | {' | '.join(SHOWN)} | synthetic | images/s |", "|" + "---|" * (len(SHOWN) + 4)]
    for loss, arm in arms_of(losses, arms):
        cells = row([out / f"{loss}-{arm}-{seed}" for seed in seeds])
        lines.append(f"| {loss} | {'none' if arm == 'plain' else f'n = {arm}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def arms_of(losses: list[str], arms: list[str]) -> list[tuple[str, str]]:
    """Return every loss with each arm that applies to it."""
    pairs = itertools.product(losses, arms)
    return [(loss, arm) for loss, arm in pairs if arm == "plain" or not BY_NAME[loss].not_expandable]


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains every loss plain and expanded and prints a table.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=[*BY_NAME, "all"], metavar="LOSS")
    parser.add_argument("--arms", nargs="+", default=["plain", "2"], help="plain, or a number of synthetic points")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("options", nargs="*", help="after --: options for every embex train")
    given = parser.parse_args()
    losses = list(BY_NAME) if "all" in given.losses else given.losses
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as embex does, for the processes that the runs share
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(train, given.out / f"{loss}-{arm}-{seed}", loss, arm, seed, given.options)
            for seed in given.seeds
            for loss, arm in arms_of(losses, given.arms)
        ]
        try:
            for run in waiting:
                run.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    print(table(given.out, losses, given.arms, given.seeds))


if __name__ == "__main__":
    main()
