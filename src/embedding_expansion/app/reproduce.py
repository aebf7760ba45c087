"""The command embex reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jsonargparse

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.errors import InvalidInput
from embedding_expansion.evidence.grid import chosen_regimes, regimes

if TYPE_CHECKING:
    from embedding_expansion.evidence.grid import Options, Regime
    from embedding_expansion.evidence.results import Record, Results
    from embedding_expansion.evidence.work import Part

_DESCRIPTION = (
    "Repeats the experiments of the documentation. evidence: the grid of docs/evidence.md, which compares forms of "
    "expansion with the plain loss after the same tuning of each. The same command continues where it was stopped; "
    "several processes and machines can share the work."
)
SCRATCH = "runs/evidence"


def _options() -> jsonargparse.ArgumentParser:
    options = command("reproduce", _DESCRIPTION)
    options.add_argument("what", type=Literal["evidence"], help="what to reproduce")
    options.add_argument(
        "--out", type=str, default="docs/evidence", help="folder of results.json and of the tables made from it"
    )
    options.add_argument("--scratch", type=str, default=SCRATCH, help="folder for cached features and locks")
    options.add_argument("--only", nargs="+", type=str, default=[], help="regimes to run; default: all")
    options.add_argument("--part", type=str, default="1/1", help="K/N: the K-th of N parts, for N machines")
    options.add_argument("--hours", type=float | None, default=None, help="start no new run after this many hours")
    options.add_argument("--dry_run", action="store_true", help="print the runs that are left and the hours they take")
    options.add_argument("--choose", action="store_true", help="choose the default, by held-out classes; done once")
    options.add_argument("--join", type=str | None, default=None, help="add the runs of another results.json")
    options.add_argument("--tables", action="store_true", help="only write the tables again")
    for name, what in (("cars", "CARS196"), ("cub", "CUB-200-2011"), ("omniglot", "Omniglot")):
        options.add_argument(f"--{name}", type=str | None, default=None, help=f"folder of {what}; default: left out")
    options.add_argument("--weights", type=str | None, default=None, help=".safetensors file of MobileNetV2's weights")
    return options


def run(arguments: list[str]) -> int:
    """Runs the grid, or says what is left; returns the exit status."""
    given = parse(_options(), arguments)
    if given.hours is not None and not 0 < given.hours < 10_000:
        raise InvalidInput(f"hours is {given.hours}; pass a number above 0 and below 10,000")

    chosen_regimes(regimes(has_cuda=True), given.only)  # refuses unknown names before torch is imported

    from embedding_expansion.evidence import results as records
    from embedding_expansion.evidence.choice import choose
    from embedding_expansion.evidence.plots import write_plots
    from embedding_expansion.evidence.tables import write_tables
    from embedding_expansion.evidence.work import Part
    from embedding_expansion.model.trained import find_device

    out, part = Path(given.out), Part.read(given.part)
    known = regimes(has_cuda=find_device("auto").type == "cuda")
    wanted = chosen_regimes(known, given.only)
    if given.dry_run:
        _print_plan(wanted, records.read(out), part)
        return 0
    out.mkdir(parents=True, exist_ok=True)
    if given.join is not None:
        added, left_out = records.join(out, records.read(_folder_of(Path(given.join))))
        reason = f"; {left_out:,} left out, which were tuned to other values" if left_out else ""
        print(f"{added:,} runs added to {out / records.FILE}{reason}")
    elif given.choose:
        print(choose(out))
    elif not given.tables and (number := _work(out, wanted, part, given)):
        return 128 + number
    results = records.read(out)
    from_gpu = any(key.startswith("cub-finetune") for key in results.runs)  # of another machine
    shown = list((regimes(has_cuda=True) if from_gpu else known).values())
    write_tables(out, results, shown)
    write_plots(out, results, shown)
    print(f"tables and figures: {out / 'tables.md'}, {out / 'differences.csv'}, {out / '*.svg'}")
    return 0


def _folder_of(results: Path) -> Path:
    """The folder of a file of results."""
    if not results.is_file() or results.name != "results.json":
        raise InvalidInput(
            f"--join names {results}, but there is no such file results.json; pass the results.json of another machine"
        )
    return results.parent


def _print_plan(wanted: list[Regime], results: Results, part: Part) -> None:
    """The runs of each regime, those that are left, and how long these take on one core."""
    from embedding_expansion.evidence.results import tuning_group
    from embedding_expansion.evidence.work import expected_seconds, left, planned

    total = 0.0
    print(f"{'regime':<24}{'runs':>8}{'left':>8}{'core hours left':>18}")
    for regime in wanted:
        known = [cell for cell in planned(regime, results) if part.has(tuning_group(cell, regime))]
        missing = len(list(left([regime], results, part)))
        hours = missing * expected_seconds(regime, results) / 3600
        total += hours
        waits = "" if known else "  after the choice"
        print(f"{regime.name:<24}{len(known):>8,}{missing:>8,}{hours:>18.1f}{waits}")
    print(f"{total:.1f} core hours left, without the features of the photographs; a run uses one core")


def _work(out: Path, wanted: list[Regime], part: Part, given: jsonargparse.Namespace) -> int:
    """Runs what is left; returns the number of the signal that stopped it, or 0."""
    from embedding_expansion.evidence.run import RunStopped
    from embedding_expansion.evidence.runner import GridRunner
    from embedding_expansion.evidence.work import work

    own = _own_options(given)
    missing = [regime.name for regime in wanted if regime.data not in own]
    if missing:
        print(f"left out, because their folder or --weights is not given: {', '.join(missing)}")
    scratch = Path(given.scratch)
    scratch.mkdir(parents=True, exist_ok=True)
    present = [regime for regime in wanted if regime.data in own]
    try:
        print(work(out, scratch, present, part, GridRunner(scratch, own), hours=given.hours, show=_show), flush=True)
    except RunStopped as stopped:
        print("stopped; run the same command to continue", flush=True)
        return stopped.signal
    return 0


def _own_options(given: jsonargparse.Namespace) -> dict[str, Options]:
    """The options of this machine for each data set that it has."""
    own: dict[str, Options] = {"glyphs": {}}
    for name in ("cars", "cub"):
        if given[name] is not None and given.weights is not None:
            own[name] = {"data.root": given[name], "model.weights": given.weights}
    if given.omniglot is not None:
        own["omniglot"] = {"data.root": given.omniglot}
    return own


def _show(record: Record) -> None:
    figures = record.get("diverged")
    if not figures:
        _, recall, precision = record["held_out"][-1]
        figures = f"held out: Recall@1 {recall:.3f}, MAP@R {precision:.3f}"
    print(f"{record['key']}: {figures}; {record['wall_seconds']:.0f} s", flush=True)
