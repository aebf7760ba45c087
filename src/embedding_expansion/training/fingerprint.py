"""The fingerprint of a run: its options, its images and its split at the start.

It is stored in the run folder, so that a resumed run detects changes and keeps its split. Files are identified by path,
size and modification time, without reading them; a file rewritten with the same size and time counts as unchanged.
Arrays are identified by a digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from embedding_expansion.data.datasets import DATASETS
from embedding_expansion.data.images import Dataset, ImageSet
from embedding_expansion.errors import RunError
from embedding_expansion.files import read_json, write_atomically
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.training.split import Sides

#: An image, or all rows of a class in an array: its name; its size in bytes (-1: missing) or rows; the modification
#: time in nanoseconds or the digest; and 1 for a query, 2 for a gallery image, 3 for both.
Seen: TypeAlias = tuple[str, int, int | str, int]
#: The images of one split, by class.
Side: TypeAlias = dict[str, list[Seen]]

_FREE = ("data.workers", "out")  # options without influence on the result
_NAMED = 5  # number of classes, files or options that a sentence names


@dataclass(frozen=True)
class Fingerprint:
    """The options, images and split of a run when it was started or resumed."""

    options: dict[str, Any]  # full name -> value
    train: Side  # as found in the data set
    test: Side
    sides: Sides

    def write(self, path: Path) -> None:
        """Writes fingerprint.json. The same run gives the same bytes."""
        text = json.dumps(dataclasses.asdict(self), separators=(",", ":")) + "\n"
        write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, path: Path) -> Fingerprint | None:
        """Reads fingerprint.json; None if it does not exist.

        Raises:
            RunError: the file is broken, or a field is missing or of the wrong type.
        """
        if not path.exists():
            return None
        remedy = "restore it, or remove it and pass --resume_changed"
        values = read_json(path, remedy)
        try:
            sides = Sides(**{name: tuple(map(str, names)) for name, names in values["sides"].items()})
            train, test = (_side_of_json(values[side]) for side in ("train", "test"))
            return cls(dict(values["options"]), train, test, sides)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{path} cannot be read as a fingerprint ({error}); {remedy}") from error


def fingerprint(config: TrainConfig, dataset: Dataset, sides: Sides) -> Fingerprint:
    """Takes the fingerprint of a run.

    Args:
        config: the configuration, as read from config.yaml.
        dataset: the data set, as opened now.
        sides: the split of the run.
    """
    root = _root(config, dataset)
    return Fingerprint(_flat(dataclasses.asdict(config)), _seen(dataset.train, root), _seen(dataset.test, root), sides)


def changed_options(before: Fingerprint, config: TrainConfig) -> list[str]:
    """Describes options that were added, removed or changed."""
    now, defaults = _flat(dataclasses.asdict(config)), _flat(dataclasses.asdict(TrainConfig()))
    defaults["expansion.form"] = "paper"  # of runs that are older than the forms
    added = [name for name in now if name not in before.options and now[name] != defaults.get(name)]
    found = [f"the option {name} was added to config.yaml with {now[name]!r}" for name in added]
    for name, was in before.options.items():
        if name not in now and name not in _FREE:
            found.append(f"the option {name} was {was!r} and was removed from config.yaml")
        elif now.get(name) != was and name not in _FREE:
            found.append(f"the option {name} is {now[name]!r} in config.yaml and was {was!r}")
    return found


def changed_data(before: Fingerprint, now: Fingerprint) -> list[str]:
    """Describes classes and images that were added, removed, changed or moved."""
    if (before.train, before.test) == (now.train, now.test) and _order(before) == _order(now):
        return []
    was, present = _classes(before), _classes(now)
    older, newer = _facts(before, present), _facts(now, was)
    kept = [key for key in older if key in newer]
    rewritten = [key for key in kept if older[key][0] == newer[key][0] and older[key] != newer[key]]
    return [
        *_listed("class", [name for name in present if name not in was], "added"),
        *_listed("class", [name for name in was if name not in present], "removed"),
        *_listed("class", [name for name in was if present.get(name, was[name]) != was[name]], "changed splits"),
        *_listed("image", [name for whole, name in newer if not whole and (whole, name) not in older], "added"),
        *_listed("image", [name for whole, name in older if not whole and (whole, name) not in newer], "removed"),
        *_listed("image", [name for whole, name in rewritten if not whole], "changed"),
        *_listed("class", [name for whole, name in rewritten if whole], "changed"),
        *_listed("image", [key[1] for key in kept if older[key][0] != newer[key][0]], "moved to another class"),
    ] or ["order of the classes or images changed"]


def _listed(noun: str, chosen: list[str], happened: str) -> list[str]:
    """A phrase on everything with the same change, such as `2 classes added (a, b)`."""
    if not chosen:
        return []
    plural = noun + ("es" if noun.endswith("s") else "s")
    more = f" and {len(chosen) - _NAMED} more" if len(chosen) > _NAMED else ""
    count = f"1 {noun}" if len(chosen) == 1 else f"{len(chosen)} {plural}"
    return [f"{count} {happened} ({', '.join(chosen[:_NAMED])}{more})"]


def _classes(seen: Fingerprint) -> dict[str, tuple[bool, bool]]:
    """Class -> whether it is a training class and whether it is a test class."""
    return {name: (name in seen.train, name in seen.test) for name in [*seen.train, *seen.test]}


def _order(seen: Fingerprint) -> list[str]:
    return [*seen.train, *seen.test]


def _facts(seen: Fingerprint, classes: Collection[str]) -> dict[tuple[str, str], tuple[str, Seen]]:
    """Class and facts of each image of some classes. Arrays have one entry per class, identified with its split."""
    return {
        (side if isinstance(file[2], str) else "", file[0]): (name, file)
        for side, content in (("train", seen.train), ("test", seen.test))
        for name, files in content.items()
        if name in classes
        for file in files
    }


def _seen(images: ImageSet, root: str) -> Side:
    side: Side = {name: [] for name in images.class_names}
    if images.paths is None:
        for label, rows in _by_class(images.labels):
            name = images.class_names[label]
            side[name].append(_of_array(images.subset(rows), name))
        return side
    marks = np.zeros(len(images), dtype=np.int64)
    if images.is_query is not None and images.is_gallery is not None:
        marks = images.is_query + 2 * images.is_gallery
    names = [images.class_names[label] for label in images.labels.tolist()]
    for name, facts, mark in zip(names, _of_files(images.paths, root), marks.tolist(), strict=True):
        side[name].append((*facts, mark))
    return side


def _of_files(paths: Iterable[Path], root: str) -> Iterator[tuple[str, int, int]]:
    """Name relative to the root, size and time of each file; size -1 for a missing file."""
    for path in paths:
        full = os.fspath(path)
        name = full[len(root) :] if full.startswith(root) else full
        try:
            found = os.stat(full)
        except OSError:
            yield name, -1, 0
        else:
            yield name, found.st_size, found.st_mtime_ns


def _by_class(labels: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    order = np.argsort(labels, kind="stable")
    present, first = np.unique(labels[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, first[1:]), strict=True)


def _of_array(images: ImageSet, name: str) -> Seen:
    """The entry of a class whose images or vectors are in memory."""
    assert images.pixels is not None
    digest = hashlib.blake2b(np.ascontiguousarray(images.pixels).data, digest_size=16)
    digest.update(json.dumps([str(images.pixels.dtype), images.pixels.shape, images.names]).encode())
    return name, len(images), digest.hexdigest(), 0


def _root(config: TrainConfig, dataset: Dataset) -> str:
    """The common prefix of all image paths, so that data which was moved as a whole is recognised."""
    given = Path(config.data.name)
    if config.data.name not in DATASETS and given.exists():
        return os.path.join(given if given.is_dir() else given.parent, "")
    paths = [*(dataset.train.paths or ()), *(dataset.test.paths or ())]
    return os.path.join(os.path.commonpath(paths), "") if paths else ""


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by their names on the command line."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _side_of_json(values: dict[str, Any]) -> Side:
    return {
        name: [(str(file[0]), int(file[1]), file[2], int(file[3])) for file in files] for name, files in values.items()
    }
