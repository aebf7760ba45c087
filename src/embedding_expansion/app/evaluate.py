"""embex evaluate."""

from __future__ import annotations

import dataclasses
import sys
import typing
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jsonargparse

from embedding_expansion.app.arguments import parse
from embedding_expansion.errors import InvalidInput, UnknownName
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.training.config import DataConfig


def run(arguments: list[str]) -> int:
    """Measures a run again, or what no run has made, and prints the measures; gives back the exit status."""
    options = jsonargparse.ArgumentParser(
        prog="embex evaluate",
        exit_on_error=False,
        allow_abbrev=False,
        description="Measures a trained run again, vectors from elsewhere, or a backbone as it comes.",
    )
    options.add_argument("run", type=str, help="run folder; .npz or .parquet with vectors and labels; or a backbone")
    options.add_argument("--data", type=str | None, default=None, help="another data set, by name or path")
    options.add_argument("--root", type=str | None, default=None, help="folder that holds the data set")
    options.add_argument("--part", type=bool | None, default=None, help="open a part of the set, and say so")
    options.add_argument("--flip", type=bool | None, default=None, help="average in mirror images; default: as the run")
    options.add_argument("--pretrained", type=bool, default=False, help="of a backbone: fetch its weights")
    options.add_argument("--weights", type=str | None, default=None, help="of a backbone: its weights, .safetensors")
    options.add_argument("--out", type=str | None, default=None, help="JSON file for the measures")
    _add_steps(options)
    given = parse(options, arguments)
    steps = Steps(**given.rerank.as_dict())

    from embedding_expansion.app.outputs import outputs
    from embedding_expansion.files import write_json
    from embedding_expansion.training.run_lock import writing_into

    with outputs(out=given.out), nullcontext() if given.out is None else writing_into(Path(given.out)):
        measures = _measure(given, steps or None)
        _print(measures, given.run, steps)
        if given.out is not None:
            write_json(Path(given.out), measures)
    return 0


def _print(measures: dict[str, Any], run: str, steps: Steps) -> None:
    from embedding_expansion.data.loader import broken_sentence
    from embedding_expansion.training.report import say_measures, say_side_by_side

    say_measures(f"{measures['data']}, {run}", measures)
    print(f"R-precision {measures['r_precision']:.3f}, MAP@R {measures['map_at_r']:.3f}, AMI {measures['ami']:.3f}")
    if steps:
        say_side_by_side(f"post-processing: {steps}", measures, measures["reranked"])
    if measures["broken_images"]:
        print(broken_sentence(dict.fromkeys(map(Path, measures["broken_images"]), "")))
    for change in measures.get("data_changes", []):
        print(f"embex: since {run} was trained: {change}", file=sys.stderr)


def _add_steps(options: jsonargparse.ArgumentParser) -> None:
    group = options.add_argument_group("post-processing, taken in this order; the measures are given before and after")
    for name, hint in typing.get_type_hints(Steps, include_extras=True).items():
        kind, text = typing.get_args(hint)
        group.add_argument(f"--rerank.{name}", type=kind, default=None, help=text)


def _measure(given: jsonargparse.Namespace, steps: Steps | None) -> dict[str, Any]:
    """The measures of whatever `run` names: a file of vectors, a folder, or else a backbone."""
    from embedding_expansion.data.finding import is_vector_file
    from embedding_expansion.training import outside
    from embedding_expansion.training.run_folder import RunFolder
    from embedding_expansion.training.trained import evaluate

    path = Path(given.run)
    changes = {name: given[name] for name in ("root", "part") if given[name] is not None}
    if is_vector_file(path):
        _refuse(given, "vectors", "data", "root", "part", "pretrained", "weights", "flip")
        return outside.evaluate_vectors(path, steps)
    if path.exists() or (len(path.parts) > 1 and not given.run.startswith("timm/")):
        _refuse(given, "a run", "pretrained", "weights")
        data = RunFolder(path).read_config().data if given.data is None else DataConfig(name=given.data)
        return evaluate(path, dataclasses.replace(data, **changes), steps, flip=given.flip)
    _refuse(given, "a backbone", "flip")
    data = DataConfig() if given.data is None else DataConfig(name=given.data)
    chosen = {"pretrained": given.pretrained, "weights": given.weights}
    try:
        return outside.evaluate_backbone(given.run, dataclasses.replace(data, **changes), steps, **chosen)
    except UnknownName as error:
        raise InvalidInput(f"there is no run folder {given.run}, and {error}") from error


def _refuse(given: jsonargparse.Namespace, what: str, *names: str) -> None:
    for name in names:
        if given[name]:
            raise InvalidInput(f"--{name} is given, but {given.run} is {what}, which has no use for it; leave it out")
