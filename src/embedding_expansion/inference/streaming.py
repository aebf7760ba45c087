"""Embeds image files as a stream and stages the batches in an index, with a bounded number of images in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from embedding_expansion.data.decoding import decode_with_size
from embedding_expansion.data.thumbnails import thumbnail
from embedding_expansion.errors import DataError
from embedding_expansion.inference.embedder import AHEAD, THREADS, Embedder, Square
from embedding_expansion.inference.inventory import Entry
from embedding_expansion.inference.prefetch import prefetch
from embedding_expansion.retrieval.index import Item, Loading

#: A callback: called with the number of images done (including broken ones) and the total.
Progress: TypeAlias = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True)
class _Prepared:
    """A decoded image: the input of the model, and the item without its vector."""

    square: Square
    item: Item


def embed_into(
    load: Loading, embedder: Embedder, entries: Sequence[Entry], *, flip: bool, progress: Progress = silent
) -> dict[str, str]:
    """Embeds images and stages them, except for those that are already staged.

    Batch boundaries depend only on the position in `entries`. A resumed load therefore gives bit-identical vectors: the
    last bits of an embedding may depend on the batch of the image.

    Args:
        load: the load that stages the images.
        embedder: the model.
        entries: the images.
        flip: whether to average the embeddings of each image and its mirror image.
        progress: called after each batch.

    Returns:
        Path -> reason, for images that cannot be embedded.
    """
    broken: dict[str, str] = {}
    waiting = [(place, entry) for place, entry in enumerate(entries) if entry.path not in load.staged]
    done = len(entries) - len(waiting)
    progress(done, len(entries))
    size = embedder.batch_size
    with prefetch(lambda one: _prepare(one[1], embedder), waiting, threads=THREADS, most=AHEAD * size) as outcomes:
        pairs = zip(waiting, outcomes, strict=True)
        for _, batch in itertools.groupby(pairs, key=lambda pair: pair[0][0] // size):
            prepared = list[_Prepared]()
            for (_, entry), outcome in batch:
                done += 1
                try:
                    prepared.append(outcome.result())
                except DataError as error:
                    broken[entry.path] = str(error)
            broken |= _stage(load, embedder, prepared, flip)
            progress(done, len(entries))
    return broken


def _prepare(entry: Entry, embedder: Embedder) -> _Prepared:
    pixels, (width, height) = decode_with_size(Path(entry.read), least=embedder.least)
    square = embedder.square(pixels)  # raises for images that are too thin, also for a thumbnail
    facts = {"width": width, "height": height} | entry.file_facts
    return _Prepared(square, Item(entry.path, entry.label, {**entry.metadata, **facts}, thumbnail(pixels)))


def _stage(load: Loading, embedder: Embedder, prepared: list[_Prepared], flip: bool) -> dict[str, str]:
    if not prepared:
        return {}
    vectors = embedder.embed_squares([one.square for one in prepared], flip=flip)
    usable = [bool(row.any()) for row in vectors]
    kept = [one.item for one, is_usable in zip(prepared, usable, strict=True) if is_usable]
    if kept:
        load.add(kept, vectors[usable])
    reason = "the model maps the image to a zero vector, which has no similarity to others; remove the image"
    return {one.item.path: reason for one, is_usable in zip(prepared, usable, strict=True) if not is_usable}
