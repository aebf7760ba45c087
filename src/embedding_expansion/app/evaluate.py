"""The command embex evaluate."""

from __future__ import annotations

import dataclasses
import sys
import typing
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse

from embedding_expansion.app.arguments import add_data, command, parse
from embedding_expansion.app.backbone_options import (
    add_backbone_options,
    given_options,
    is_backbone,
    plain_backbone,
    refuse_backbone_options,
)
from embedding_expansion.app.next_step import after_evaluation, print_next
from embedding_expansion.errors import InvalidInput
from embedding_expansion.retrieval.rerank.steps import Steps
from embedding_expansion.runs.options import DataConfig

if TYPE_CHECKING:
    from embedding_expansion.data.preprocessing import Preprocessing
    from embedding_expansion.model.network import EmbeddingModel


def run(arguments: list[str]) -> int:
    """Evaluates a run, a file of vectors or a backbone and prints the metrics; returns the exit status."""
    options = command(
        "evaluate",
        "Evaluates a trained run, embeddings from another program, or a backbone without training.",
    )
    options.add_argument(
        "run",
        type=str,
        help="a run folder, an .npz or .parquet file with vectors and labels, or a backbone as it comes: a torchvision "
        "name or timm/NAME",
    )
    add_data(options, "that of the run, for a backbone glyphs")
    options.add_argument(
        "--flip",
        type=bool | None,
        default=None,
        help="average the embeddings of an image and its mirror image; default: as configured in the run",
    )
    options.add_argument("--out", type=str | None, default=None, help="JSON file to write the metrics to")
    add_backbone_options(options)
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
        print_next(after_evaluation(given.run, given.data, given_options(given)))
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

    path, flip = Path(given.run), bool(given.flip)
    changes = {name: given[name] for name in ("root", "part") if given[name] is not None}
    holds_vectors = is_vector_file(path)
    if holds_vectors:
        _refuse(given, "vectors", "data", "root", "part", "flip")
        refuse_backbone_options(given, given.run, "a file of vectors")
    named = not holds_vectors and is_backbone(given.run, given)  # refuses unknown names before torch is imported

    from embedding_expansion.training import outside
    from embedding_expansion.training.trained import evaluate

    if holds_vectors:
        return outside.evaluate_vectors(path, steps)
    if named:
        backbone = plain_backbone(given.run, given)
        return outside.evaluate_model(backbone.model, backbone.preprocessing, _data(given, changes), steps, flip=flip)
    if stored := _stored_backbone(path):
        return outside.evaluate_model(*stored, _data(given, changes), steps, flip=flip)
    data = RunFolder(path).read_config().data if given.data is None else DataConfig(name=given.data)
    return evaluate(path, dataclasses.replace(data, **changes), steps, flip=given.flip)


def _data(given: jsonargparse.Namespace, changes: dict[str, Any]) -> DataConfig:
    return dataclasses.replace(DataConfig() if given.data is None else DataConfig(name=given.data), **changes)


def _stored_backbone(path: Path) -> tuple[EmbeddingModel, Preprocessing] | None:
    """The network and preprocessing of the export of a backbone as it comes; None for a run and its exports."""
    from embedding_expansion.inference.manifest import MANIFEST, read_manifest
    from embedding_expansion.model.trained import load_network

    if not (path / MANIFEST).exists():
        return None
    manifest = read_manifest(path)
    if manifest.content.get("training") is not None:
        return None
    if manifest.format != "safetensors":
        raise InvalidInput(
            f"{path} is a backbone in the format {manifest.format}; export it as safetensors to evaluate it"
        )
    return load_network(path), manifest.preprocessing


def _refuse(given: jsonargparse.Namespace, what: str, *names: str) -> None:
    for name in names:
        if given[name]:
            raise InvalidInput(f"--{name} has no effect, because {given.run} is {what}; omit it")
