"""The command embex info."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.next_step import print_next, search_in

if TYPE_CHECKING:
    from embedding_expansion.inference.manifest import Manifest
    from embedding_expansion.retrieval.index import Index


def run(arguments: list[str]) -> int:
    """Describes an index; returns the exit status."""
    options = command(
        "info",
        "Describes an index: its images, search structure, model, thresholds and unfinished loads.",
    )
    options.add_argument("index", type=str, help="the index: a folder, or a postgresql:// URL")
    given = parse(options, arguments)

    from embedding_expansion.app.loading import print_known, print_search, print_unfinished
    from embedding_expansion.inference.gallery import thresholds_of
    from embedding_expansion.retrieval.index import open_index

    with open_index(given.index) as index:
        count, unlabelled = index.count(), index.count({"label": None})
        print(
            f"{index.location}: {count:,} images, {count - unlabelled:,} with a label, vectors with "
            f"{index.dimensions:,} dimensions in {index.precision}"
        )
        if index.read_only is not None:
            print(f"read-only: {index.read_only}; changes by others appear once the index's files show them")
        print_search(index)
        _print_model(index)
        for threshold in thresholds_of(index).values():
            print(threshold.sentence())
        print_known(index)
        print_unfinished(index)
    print_next(search_in(given.index))
    return 0


def _print_model(index: Index) -> None:
    from embedding_expansion.inference.index_model import model_note
    from embedding_expansion.inference.manifest import MANIFEST

    note = model_note(index)
    if MANIFEST not in index.files.sizes():
        print("model: none yet; embex index stores it" if note is None else f"model: trained on vectors, digest {note}")
        return
    about = _manifest(index)
    backbone, data = about.entry("model", "backbone"), about.entry("training", "data")
    made = (
        f"as it comes, weights: {about.entry('weights_came_from', 'start')}" if data is None else f"trained on {data}"
    )
    print(f"model: {backbone} {made}, {about.format}, digest {note or 'unknown'}")
    if assumed := about.entry("assumed"):
        print(f"model: {assumed}")


def _manifest(index: Index) -> Manifest:
    from embedding_expansion.inference.manifest import MANIFEST, read_manifest

    with tempfile.TemporaryDirectory(prefix="embex-model-") as folder:
        index.files.fetch(MANIFEST, Path(folder) / MANIFEST)
        return read_manifest(Path(folder))
