"""The command embex train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_expansion.app.arguments import parse
from embedding_expansion.errors import InvalidInput
from embedding_expansion.runs.config import from_namespace, parser

if TYPE_CHECKING:
    from embedding_expansion.training.job import Tested

# Short forms of options.
_SHORT = {
    "--data": "--data.name",
    "--loss": "--loss.name",
    "--model": "--model.backbone",
    "--expansion": "--expansion.n",
    "--memory": "--memory.size",
    "--miner": "--miner.name",
}


def run(arguments: list[str]) -> int:
    """Trains a model or resumes a run; returns the exit status."""
    options = parser()
    options.add_argument("--resume", type=str | None, default=None, help="resume this run folder, as configured")
    options.add_argument(
        "--resume_changed",
        action="store_true",
        help="with --resume: resume although images, options in config.yaml or checkpoints have changed since the run "
        "was started; every class keeps its split, new classes are ignored, and environment.json records the changes",
    )
    given = parse(options, [long_option(argument) for argument in arguments])
    path, changed = given.pop("resume"), given.pop("resume_changed")
    if path is None:
        if changed:
            raise InvalidInput("--resume_changed needs --resume; name the run folder with --resume")
        config = from_namespace(given)
    elif set(arguments) - {"--resume", path, f"--resume={path}", "--resume_changed"}:
        raise InvalidInput("--resume continues a run as it was configured; omit the other options")

    from embedding_expansion.training import run as training  # imports torch, so only after the arguments are validated

    command = ("embex", "train", *arguments)
    if path is None:
        outcome = training.train(config, command=command)
    else:
        outcome = training.resume(Path(path), changed=changed, command=command)
    if outcome.signal:
        print(f"stopped after saving; resume with: embex train --resume {outcome.run}", flush=True)
        return 128 + outcome.signal
    if outcome.metrics is not None:
        _report(outcome.run, outcome.tested)
    return 0


def _report(path: Path, tested: Tested | None) -> None:
    """Writes the report, unless a run that was already complete has one.

    The run is complete without its report, so a failure to write the report does not fail the run.
    """
    from embedding_expansion.app.report.page import write_report
    from embedding_expansion.runs.run_folder import RunFolder

    if tested is None and RunFolder(path).report.exists():
        return
    try:
        print(f"report: {write_report(RunFolder(path), tested=tested)}", flush=True)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(
            f"embex: the run is complete, but writing its report failed: {reason}; try embex report {path}",
            file=sys.stderr,
        )


def long_option(argument: str) -> str:
    """An argument with the full name of its option."""
    name, equals, value = argument.partition("=")
    return _SHORT.get(name, name) + equals + value
