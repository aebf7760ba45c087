"""embex evaluate."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.training.config import DataConfig


def run(arguments: list[str]) -> int:
    """Measures a run again and prints the measures; gives back the exit status."""
    options = jsonargparse.ArgumentParser(
        prog="embex evaluate", exit_on_error=False, allow_abbrev=False, description="Measures a trained run again."
    )
    options.add_argument("run", type=str, help="run folder")
    options.add_argument("--data", type=str | None, default=None, help="another data set, by name or path")
    options.add_argument("--root", type=str | None, default=None, help="folder that holds the data set")
    options.add_argument("--part", type=bool | None, default=None, help="open a part of the set, and say so")
    options.add_argument("--out", type=str | None, default=None, help="JSON file for the measures")
    _add_steps(options)
    given = parse(options, arguments)
    path, steps = Path(given.run), Steps(**given.rerank.as_dict())

    from embedding_expansion.data.loader import broken_sentence
    from embedding_expansion.training.files import check_place, write_json
    from embedding_expansion.training.report import say_measures, say_side_by_side
    from embedding_expansion.training.run_folder import RunFolder
    from embedding_expansion.training.trained import evaluate

    if given.out is not None:
        check_place(Path(given.out))
    data = RunFolder(path).read_config().data if given.data is None else DataConfig(name=given.data)
    changes = {name: given[name] for name in ("root", "part") if given[name] is not None}
    measures = evaluate(path, dataclasses.replace(data, **changes), steps or None)
    say_measures(f"{measures['data']}, {given.run}", measures)
    print(f"R-precision {measures['r_precision']:.3f}, MAP@R {measures['map_at_r']:.3f}, AMI {measures['ami']:.3f}")
    if steps:
        say_side_by_side(f"post-processing: {steps}", measures, measures["reranked"])
    if measures["broken_images"]:
        print(broken_sentence(dict.fromkeys(map(Path, measures["broken_images"]), "")))
    if given.out is not None:
        write_json(Path(given.out), measures)
    return 0


def _add_steps(options: jsonargparse.ArgumentParser) -> None:
    group = options.add_argument_group("post-processing, taken in this order; the measures are given before and after")
    for name, hint in typing.get_type_hints(Steps, include_extras=True).items():
        kind, text = typing.get_args(hint)
        group.add_argument(f"--rerank.{name}", type=kind, default=None, help=text)
