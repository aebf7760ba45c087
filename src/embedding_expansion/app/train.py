"""The command embex train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.app.examples import EXAMPLES
from embedding_expansion.app.names import SHORT
from embedding_expansion.app.next_step import after_run, print_next
from embedding_expansion.errors import InvalidInput
from embedding_expansion.methods import METHODS
from embedding_expansion.runs.config import from_namespace, parser
from embedding_expansion.runs.help import with_examples

if TYPE_CHECKING:
    from embedding_expansion.data.images import Dataset
    from embedding_expansion.runs.options import TrainConfig
    from embedding_expansion.training.job import Tested

_DESCRIPTION = "Trains an embedding model and evaluates it before and after training."
_NOT_GIVEN = ""  # the name of a loss that has none


def run(arguments: list[str]) -> int:
    """Trains a model or resumes a run; returns the exit status."""
    options = parser("embex train", with_examples(_DESCRIPTION, EXAMPLES["train"]), short=SHORT)
    options.add_argument("--resume", type=str | None, default=None, help="resume this run folder, as configured")
    options.add_argument(
        "--resume_changed",
        action="store_true",
        help="with --resume: resume although images, options in config.yaml or checkpoints have changed since the run "
        "was started; every class keeps its split, new classes are ignored, and environment.json records the changes",
    )
    full = [long_option(argument) for argument in arguments]
    take_loss_of_method(options, full)
    given = parse(options, full)
    path, changed = given.pop("resume"), given.pop("resume_changed")
    if path is None:
        if changed:
            raise InvalidInput("--resume_changed needs --resume; name the run folder with --resume")
        config = from_namespace(given)
    elif set(arguments) - {"--resume", path, f"--resume={path}", "--resume_changed"}:
        raise InvalidInput("--resume continues a run as it was configured; omit the other options")

    if path is None:
        from embedding_expansion.app.names import check_names

        check_names(config)
    from embedding_expansion.training import run as training  # imports torch, so only after the arguments are validated
    from embedding_expansion.training.split import draw

    command = ("embex", "train", *arguments)
    if path is None:
        config, dataset, chosen = with_recipe(options, full, config)
        outcome = training.train_on(config, draw(dataset, config), command=command, headline=chosen)
    else:
        outcome = training.resume(Path(path), changed=changed, command=command)
    if outcome.signal:
        print(f"stopped after saving; resume with: embex train --resume {outcome.run}", flush=True)
        return 128 + outcome.signal
    if outcome.metrics is not None:
        _report(outcome.run, outcome.tested)
        print_next(after_run(outcome.run))
    return 0


def take_loss_of_method(options: jsonargparse.ArgumentParser, arguments: list[str]) -> None:
    """Makes the loss of a method's paper the default, unless the arguments or their file name another loss."""
    if {"-h", "--help"} & {*arguments}:  # which shows the usual default
        return
    usual = options.get_defaults()["loss"]
    options.set_defaults({"loss": {"name": _NOT_GIVEN}})
    given = parse(options, arguments)
    takes = METHODS.get(str(given["method"].get("name")))
    has_loss = given["loss"].get("name") != _NOT_GIVEN
    options.set_defaults({"loss": usual if has_loss or takes is None else dict(takes.paper)})


def with_recipe(
    options: jsonargparse.ArgumentParser, arguments: list[str], given: TrainConfig, *, timed: bool = True
) -> tuple[TrainConfig, Dataset, str]:
    """Opens the data and chooses the recipe, whose defaults replace those of the options.

    Args:
        options: the parser of the command.
        arguments: its arguments, with full names.
        given: the configuration that they give without a recipe.
        timed: whether the time of fine-tuning on the CPU decides.

    Returns:
        The configuration with the recipe, the data set, and lines that say which recipe it is and why.
    """
    from embedding_expansion.training.recipe import choose_recipe
    from embedding_expansion.training.split import located, open_data

    dataset = open_data(located(given.data))
    recipe = choose_recipe(given, dataset, timed=timed)
    options.set_defaults(recipe.defaults)
    return from_namespace(parse(options, arguments)), dataset, str(recipe)


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
    return SHORT.get(name, name) + equals + value
