"""The command embex calibrate."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.backbone_options import MODEL, add_backbone_options, opened_model, refuse_backbone_options
from embedding_expansion.app.next_step import after_calibration, print_next

if TYPE_CHECKING:
    from embedding_expansion.inference.calibration import Calibration, Labelled
    from embedding_expansion.retrieval.index import Index
    from embedding_expansion.runs.options import DataConfig


def run(arguments: list[str]) -> int:
    """Calibrates and stores thresholds; returns the exit status, 1 if a threshold is missing or an image is broken."""
    options = command(
        "calibrate",
        "Calibrates two thresholds of similarity on labelled images: from which similarity two images "
        "belong to the same class, and from which an image is known to a collection. The images are those of the "
        "classes that a run held out, of another data set, or the labelled images of an index. The thresholds are "
        "written to thresholds.json beside the model, or into the index.",
    )
    options.add_argument("model", type=str, help=f"an index, {MODEL}")
    options.add_argument(
        "--precision",
        type=float | None,
        default=None,
        help="target: the share of accepted pairs (or queries) that are correct",
    )
    options.add_argument(
        "--false_alarm_rate", type=float | None, default=None, help="target: the share of wrong pairs that are accepted"
    )
    options.add_argument(
        "--data", type=str | None, default=None, help="another data set, by name or path; its training split is used"
    )
    options.add_argument("--root", type=str | None, default=None, help="folder that contains the data set of --data")
    options.add_argument("--part", type=bool, default=False, help="accept an incomplete data set")
    options.add_argument(
        "--flip",
        type=bool,
        default=False,
        help="average the embeddings of an image and its mirror image, as embex index --flip",
    )
    options.add_argument("--seed", type=int, default=0, help="random seed of the sample of pairs")
    options.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="JSON file to write the thresholds to, instead of the default place",
    )
    options.add_argument("--device", type=str, default="auto", help="device of the model: auto, cpu, cuda, cuda:1, ...")
    add_backbone_options(options)
    given = parse(options, arguments)

    from embedding_expansion.app.outputs import outputs
    from embedding_expansion.files import write_json
    from embedding_expansion.inference.calibration import calibrate
    from embedding_expansion.inference.thresholds import Goal, thresholds_json

    goal = Goal(false_alarm_rate=given.false_alarm_rate, precision=given.precision)
    with outputs(out=given.out):
        labelled = _labelled(given)
        found = calibrate(labelled, goal, seed=given.seed)
        if given.out is None:
            found, place = _keep(given.model, found, labelled)
        else:
            write_json(Path(given.out), thresholds_json(found.thresholds))
            place = given.out
        status = _print(found, labelled, place)
        print_next(after_calibration(given.model))
        return status


def _labelled(given: jsonargparse.Namespace) -> Labelled:
    from embedding_expansion.errors import InvalidInput
    from embedding_expansion.inference.labelled import labelled_of_embedder, labelled_of_index, labelled_of_run
    from embedding_expansion.inference.manifest import MANIFEST
    from embedding_expansion.retrieval.index import is_index, open_index

    if is_index(given.model):
        refuse_backbone_options(given, given.model, "an index, which has its own model")
        unused = [f"--{name}" for name in ("data", "root", "part", "flip") if given[name]]
        if unused:
            raise InvalidInput(f"{unused[0]} has no effect, because an index is calibrated on its own items; omit it")
        with open_index(given.model) as index:
            return labelled_of_index(index)
    data = _data(given)
    folder = Path(given.model)
    if folder.is_dir() and not (folder / MANIFEST).exists():
        refuse_backbone_options(given, given.model, "a run folder")
        return labelled_of_run(folder, data, flip=given.flip, device=given.device)
    if not folder.is_dir() and given.out is None:
        raise InvalidInput(
            f"{given.model} is no folder to store the thresholds in; pass --out FILE, or store the backbone with embex "
            "export or embex index first"
        )
    return labelled_of_embedder(opened_model(given.model, given), given.model, data, flip=given.flip)


def _data(given: jsonargparse.Namespace) -> DataConfig | None:
    from embedding_expansion.errors import InvalidInput
    from embedding_expansion.runs.options import DataConfig

    if given.data is not None:
        return DataConfig(name=given.data, root=given.root, part=given.part)
    if given.root is not None or given.part:
        raise InvalidInput("--root and --part describe the data set of --data; pass --data as well, or omit them")
    return None


def _keep(model: str, found: Calibration, labelled: Labelled) -> tuple[Calibration, str]:
    """Stores the thresholds with the model or the index; returns those that were stored, and the place."""
    from embedding_expansion.inference.export import write_card
    from embedding_expansion.inference.manifest import MANIFEST
    from embedding_expansion.inference.thresholds import THRESHOLDS, write_thresholds
    from embedding_expansion.retrieval.index import is_index, open_index

    if is_index(model):
        with open_index(model) as index:
            return _keep_in_index(index, found, labelled), index.location
    write_thresholds(Path(model), found.thresholds)
    if (Path(model) / MANIFEST).exists():
        write_card(Path(model), found.thresholds)
    return found, str(Path(model) / THRESHOLDS)


def _keep_in_index(index: Index, found: Calibration, labelled: Labelled) -> Calibration:
    """Stores thresholds in an index; that of "known or unknown" only if the index has enough classes."""
    from embedding_expansion.inference.gallery import keep, too_few

    classes = len(set(labelled.labels.tolist()))
    if failed := too_few(classes):
        thresholds = dict(found.thresholds)
        thresholds.pop("known or unknown", None)
        found = dataclasses.replace(found, thresholds=thresholds, failed={**found.failed, "known or unknown": failed})
    keep(index, found.thresholds, len(labelled.labels), classes, found.failed.get("known or unknown", ""))
    return found


def _print(found: Calibration, labelled: Labelled, place: str) -> int:
    print(f"calibrated on {labelled.description}")
    for threshold in found.thresholds.values():
        print(dataclasses.replace(threshold, data=None).sentence())
    print(f"stored in {place}; other classes may need other thresholds, so check them on your own images")
    for task, reason in found.failed.items():
        print(f"embex: no threshold for {task!r}: {reason}", file=sys.stderr)
    for change in labelled.changes:
        print(f"embex: changed since the run was trained: {change}", file=sys.stderr)
    for path, reason in labelled.broken.items():
        print(f"embex: skipped {path}: {reason}", file=sys.stderr)
    return 1 if found.failed or labelled.broken else 0
