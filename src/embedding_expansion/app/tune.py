"""The command embex tune."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.app.examples import EXAMPLES
from embedding_expansion.app.names import SHORT
from embedding_expansion.app.next_step import print_next
from embedding_expansion.app.train import long_option, with_recipe
from embedding_expansion.errors import InvalidInput
from embedding_expansion.methods import NO_METHOD
from embedding_expansion.runs.config import from_namespace, parser
from embedding_expansion.runs.help import with_examples
from embedding_expansion.tuning.arms import check_arms

if TYPE_CHECKING:
    from embedding_expansion.tuning.plan import Plan
    from embedding_expansion.tuning.results import Result
    from embedding_expansion.tuning.study import Study

_DESCRIPTION = (
    "Tunes forms of expansion, with the same budget and the same search space for each, on held-out training classes. "
    "The test classes are never read. The same command continues a study that was interrupted, and several processes "
    "can run it at once. The other options are those of embex train; their values are those of the first trial."
)
#: Texts that differ from those of embex train. Options that tuning decides about are not shown.
_HELP = {
    "out": "folder of the study (default: runs/tune-DATA-LOSS)",
    "validation_share": "share of the training classes held out, where there is one fold",
    "steps": "training steps of the first trial of each arm",
} | dict.fromkeys(
    (
        "expansion.form",
        "expansion.scope",
        "expansion.balance",
        "protocol",
        "patience",
        "measure_before",
        "measure_test",
    ),
    argparse.SUPPRESS,
)
SHARE = 0.25  # of the training classes; a training run holds out fewer, as it needs them for one choice only


def _options() -> jsonargparse.ArgumentParser:
    options = parser("embex tune", with_examples(_DESCRIPTION, EXAMPLES["tune"]), _HELP, short=SHORT)
    options.add_argument(
        "--arms",
        nargs="+",
        type=str,
        default=["none", "paper", "balanced_negative"],
        help="forms of expansion to compare; none is the plain loss (default: none paper balanced_negative)",
    )
    options.add_argument("--trials", type=int, default=12, help="trials of each arm, the given options first")
    options.add_argument(
        "--search",
        nargs="+",
        type=str,
        default=[],
        help="what to search: lr, backbone (its rate), loss (its margin or scale), K (images per class), steps; "
        "default: all that apply",
    )
    options.add_argument(
        "--folds",
        type=int | None,
        default=None,
        help="folds of a cross-validation over the training classes; default: 3 where only the head learns, otherwise "
        "1, which holds out --validation_share",
    )
    options.add_argument(
        "--measure", type=Literal["recall_at_1", "map_at_r"], default="recall_at_1", help="measure to maximise"
    )
    options.set_defaults({"validation_share": SHARE})
    return options


def run(arguments: list[str]) -> int:
    """Tunes; returns the exit status."""
    options, full = _options(), [long_option(argument) for argument in arguments]
    parsed = parse(options, full)
    if parsed.method.get("name") != NO_METHOD:
        raise InvalidInput("embex tune compares forms of expansion, whose place a method takes; omit --method")
    given = from_namespace(parsed)

    from embedding_expansion.app.names import check_names

    check_names(given)
    check_arms(parsed.arms)
    if importlib.util.find_spec("optuna") is None:
        raise InvalidInput("embex tune needs Optuna; run pip install 'embedding-expansion[tune]'")

    from embedding_expansion.app.pages.tuning import write_tuning_page
    from embedding_expansion.tuning.plan import make_plan
    from embedding_expansion.tuning.results import Result, standings
    from embedding_expansion.tuning.tune import tune

    config, _, chosen = with_recipe(options, full, given, timed=False)  # all processes of a study get the same
    # How a recipe selects the weights and when it stops is not for trials, which all get their whole budget.
    config = dataclasses.replace(config, protocol=given.protocol, patience=given.patience)
    plan = make_plan(
        config, parsed.arms, parsed.trials, search=parsed.search, folds=parsed.folds, measure=parsed.measure
    )
    print(chosen)
    out = Path(config.out or f"runs/tune-{Path(config.data.name).stem}-{config.loss['name']}")
    _print_plan(plan, out)
    results = list[Result]()

    def show(study: Study, found: list[Result]) -> None:
        results[:] = found
        write_tuning_page(study.plan, found, study.report)

    stopped_by = tune(plan, out, show)
    if stopped_by:
        print("stopped after saving; the same command goes on", flush=True)
        return 128 + stopped_by
    print(f"report: {out / 'report.html'}")
    for arm in plan.arms:
        if (path := out / "best" / f"{arm}.yaml").exists():
            print(f"train {arm} on all training classes: embex train --config {path}", flush=True)
    print_next(
        [] if not results else ["embex", "train", "--config", out / "best" / f"{standings(results)[0].arm}.yaml"]
    )
    return 0


def _print_plan(plan: Plan, out: Path) -> None:
    print(f"study: {out}; {plan.trials} trials of {', '.join(plan.arms)} on {plan.data}")
    held = [0 if split.validation is None else len(split.validation.classes) for split in plan.splits]
    print(f"held-out training classes: {', '.join(map(str, held))} of {len(plan.splits[0].dataset.train.classes)}")
    for name, values in plan.settings["search"].items():
        print(f"searched: {name}, {values}", flush=True)
