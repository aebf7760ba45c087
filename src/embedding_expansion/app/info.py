"""embex info."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse

from embedding_expansion.app.arguments import parse

if TYPE_CHECKING:
    from embedding_expansion.retrieval.index import Index


def run(arguments: list[str]) -> int:
    """Says what an index holds; gives back the exit status."""
    options = jsonargparse.ArgumentParser(
        prog="embex info",
        exit_on_error=False,
        allow_abbrev=False,
        description="What an index holds: images, how it is searched, its model, thresholds, unfinished loads.",
    )
    options.add_argument("index", type=str, help="the index: a folder, or a postgresql:// URL")
    given = parse(options, arguments)

    from embedding_expansion.app.loading import say_search, say_unfinished
    from embedding_expansion.inference.collection import thresholds_of
    from embedding_expansion.retrieval.index import open_index

    with open_index(given.index) as index:
        count, unlabelled = index.count(), index.count({"label": None})
        print(
            f"{index.location}: {count:,} images, {count - unlabelled:,} with a label; vectors of "
            f"{index.dimensions:,} dimensions in {index.precision}"
        )
        if index.read_only is not None:
            print(f"read only: {index.read_only}; what others write is seen as far as the files show it here")
        say_search(index)
        _say_model(index)
        for threshold in thresholds_of(index).values():
            print(threshold.sentence())
        say_unfinished(index)
    return 0


def _say_model(index: Index) -> None:
    from embedding_expansion.inference.index_model import model_note
    from embedding_expansion.inference.manifest import MANIFEST

    note = model_note(index)
    if MANIFEST not in index.files.sizes():
        print("model: none yet; embex index puts it in" if note is None else f"model: of vectors, digest {note}")
        return
    about = _read(index, MANIFEST)
    print(
        f"model: {about['model']['backbone']} trained on {about['training']['data']}, {about['format']}, digest "
        f"{note or 'not noted'}"
    )


def _read(index: Index, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="embex-model-") as folder:
        index.files.fetch(name, Path(folder) / name)
        content: dict[str, Any] = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
        return content
