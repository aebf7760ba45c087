"""The last line of a command: what a user would most likely type next, with paths that exist.

It is printed with the other output, so not where stdout carries data (`outputs.outputs`).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path

#: Words of a command, before they are quoted for the shell.
Step = list[str]


def print_next(words: Iterable[str | os.PathLike[str]]) -> None:
    """Prints `next: ` and a command that can be pasted into a shell; nothing without words, or where stdout is data."""
    step = [os.fspath(word) for word in words]
    if step and sys.stdout is not sys.stderr:
        print(f"next: {shlex.join(step)}", flush=True)


def after_run(run: str | os.PathLike[str]) -> Step:
    """After a run was trained, compared or reported: its images become a collection, or else it is calibrated."""
    return _index_its_images(run) or _calibrate(run)


def after_evaluation(name: str, data: str | None, options: Mapping[str, object]) -> Step:
    """After an evaluation: a run is calibrated; a backbone and vectors are trained on."""
    from embedding_expansion.data.finding import is_vector_file

    if is_vector_file(name):
        return ["embex", "train", "--data", _argument(name)]
    if os.path.isdir(name):
        return _calibrate(name, data)
    of_data = [] if data is None else ["--data", _argument(data)]
    sections = {option: "data" if option == "image_size" else "model" for option in options}
    named = {f"{sections[option]}.{option}": value for option, value in options.items()}
    return ["embex", "train", *of_data, "--model", name, *typed(named)]


def after_calibration(model: str) -> Step:
    """After a calibration: an index is served, and the images of a run become a collection."""
    from embedding_expansion.retrieval.index import is_index

    if not _is_run(model):
        return ["embex", "serve", _argument(model)] if is_index(model) else []
    return _index_its_images(model) or ["embex", "export", _argument(model), "--out", _free(f"{Path(model).name}-onnx")]


def after_export(export: str, run: str) -> Step:
    """After an export: it embeds the images that the run was trained on, or is calibrated on them."""
    data = _data_of(run) or "glyphs"
    if os.path.isdir(data):
        return ["embex", "embed", _argument(export), _argument(data), "--out", _free(Path(data).resolve().name, ".npz")]
    return _calibrate(export, data)


def after_duplicates(index: str, copies: Sequence[str]) -> Step:
    """After a search for duplicates: what removing the first copy would do, or the page."""
    if not copies:
        return ["embex", "serve", _argument(index)]
    return ["embex", "remove", _argument(index), _argument(_near(copies[0])), "--dry_run"]


def index_of(model: str | os.PathLike[str], images: Sequence[str], options: Mapping[str, object] | None = None) -> Step:
    """An index of images.

    Args:
        model: its model.
        images: the images, as they were named.
        options: the options of the model, if it is a backbone.
    """
    out = _free(f"{Path(images[0]).resolve().stem}-index")
    return ["embex", "index", _argument(model), *map(_argument, images), *typed(options or {}), "--out", out]


def search_in(location: str) -> Step:
    """After images were put into an index: a search for the first one; near-duplicates if there is no file of it."""
    from embedding_expansion.retrieval.index import open_index

    with open_index(location) as index:
        first = next((item.path for page in index.items(size=1) for item in page), "")
    step = ["search", _argument(location), _argument(_near(first))] if os.path.isfile(first) else None
    return ["embex", *(step or ["duplicates", _argument(location)])]


def typed(options: Mapping[str, object]) -> Step:
    """Options as they are typed."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
    return [word for name, text in texts.items() for word in (f"--{name}", text)]


def _calibrate(model: str | os.PathLike[str], data: str | None = None) -> Step:
    of_data = [] if data is None else ["--data", _argument(data)]
    return ["embex", "calibrate", _argument(model), *of_data, "--precision", "0.99"]


def _index_its_images(run: str | os.PathLike[str]) -> Step:
    from embedding_expansion.data.finding import is_vector_file

    data = _data_of(run)
    return index_of(run, [data]) if data is not None and (os.path.isdir(data) or is_vector_file(data)) else []


def _data_of(run: str | os.PathLike[str]) -> str | None:
    """The data that a run was trained on; None for what is no run."""
    from embedding_expansion.runs.run_folder import RunFolder

    return os.path.expanduser(RunFolder(Path(run)).read_config().data.name) if _is_run(run) else None


def _is_run(folder: str | os.PathLike[str]) -> bool:
    return os.path.isfile(os.path.join(folder, "config.yaml"))


def _near(path: str) -> str:
    """A path as seen from this folder, if it is in it."""
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative


def _argument(path: str | os.PathLike[str]) -> str:
    """A path that no parser takes for an option."""
    name = os.fspath(path)
    return os.path.join(os.curdir, name) if name.startswith("-") else name


def _free(name: str, ending: str = "") -> str:
    """A name in this folder that is not taken."""
    names = (name + ("" if number == 1 else f"-{number}") + ending for number in count(1))
    return _argument(next(each for each in names if not os.path.lexists(each)))
