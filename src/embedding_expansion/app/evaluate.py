"""The command embex evaluate."""

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
from embedding_expansion.runs.options import DataConfig


def run(arguments: list[str]) -> int:
    """Evaluates a run, a file of vectors or a backbone and prints the metrics; returns the exit status."""
    options = jsonargparse.ArgumentParser(
        prog="embex evaluate",
        exit_on_error=False,
        allow_abbrev=False,
        description="Evaluates a trained run, embeddings from another program, or a backbone without training.",
    )
    options.add_argument(
        "run", type=str, help="a run folder, an .npz or .parquet file with vectors and labels, or a backbone"
    )
    options.add_argument(
        "--data", type=str | None, default=None, help="another data set, by name or path; default: that of the run"
    )
    options.add_argument("--root", type=str | None, default=None, help="folder that contains the data set")
    options.add_argument("--part", type=bool | None, default=None, help="accept an incomplete data set")
    options.add_argument(
        "--flip",
        type=bool | None,
        default=None,
        help="average the embeddings of an image and its mirror image; default: as configured in the run",
    )
    options.add_argument(
        "--pretrained", type=bool, default=False, help="backbone only: download its pretrained weights"
    )
    options.add_argument(
        "--weights", type=str | None, default=None, help="backbone only: its weights, a .safetensors file"
    )
    options.add_argument("--out", type=str | None, default=None, help="JSON file to write the metrics to")
    _add_steps(options)
    given = parse(options, arguments)
    steps = Steps(**given.rerank.as_dict())

    from embedding_expansion.app.outputs import outputs
    from embedding_expansion.files import write_json
    from embedding_expansion.runs.run_lock import writing_into

    with outputs(out=given.out), nullcontext() if given.out is None else writing_into(Path(given.out)):
        measures = _measure(given, steps or None)
        _print(measures, given.run, steps)
        if given.out is not None:
            write_json(Path(given.out), measures)
    return 0


def _print(measures: dict[str, Any], run: str, steps: Steps) -> None:
    from embedding_expansion.data.loader import broken_sentence
    from embedding_expansion.training.report import print_comparison, print_metrics

    print_metrics(f"{measures['data']}, {run}", measures)
    print(f"R-precision {measures['r_precision']:.3f}, MAP@R {measures['map_at_r']:.3f}, AMI {measures['ami']:.3f}")
    if steps:
        print_comparison(f"post-processing: {steps}", measures, measures["reranked"])
    if measures["broken_images"]:
        print(broken_sentence(dict.fromkeys(map(Path, measures["broken_images"]), "")))
    for change in measures.get("data_changes", []):
        print(f"embex: changed since {run} was trained: {change}", file=sys.stderr)


def _add_steps(options: jsonargparse.ArgumentParser) -> None:
    group = options.add_argument_group(
        "post-processing steps, applied in this order; metrics are printed before and after"
    )
    for name, hint in typing.get_type_hints(Steps, include_extras=True).items():
        kind, text = typing.get_args(hint)
        group.add_argument(f"--rerank.{name}", type=kind, default=None, help=text)


def _measure(given: jsonargparse.Namespace, steps: Steps | None) -> dict[str, Any]:
    """Evaluates what `run` names: a file of vectors, a run folder, or a backbone."""
    from embedding_expansion.data.finding import is_vector_file
    from embedding_expansion.runs.run_folder import RunFolder
    from embedding_expansion.training import outside
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
        raise InvalidInput(f"{given.run} is not a run folder, and {error}") from error


def _refuse(given: jsonargparse.Namespace, what: str, *names: str) -> None:
    for name in names:
        if given[name]:
            raise InvalidInput(f"--{name} has no effect, because {given.run} is {what}; omit it")
