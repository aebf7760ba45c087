"""Embedding as a stream: files in, batches of items and vectors staged in an index, a bounded number in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from embedding_expansion.data.decoding import decode
from embedding_expansion.errors import DataError
from embedding_expansion.inference.ahead import ahead
from embedding_expansion.inference.embedder import AHEAD, THREADS, Embedder, Square
from embedding_expansion.inference.inventory import Entry
from embedding_expansion.inference.thumbnails import thumbnail
from embedding_expansion.retrieval.index import Item, Loading

#: Is told how many of the images are done, broken ones included, and how many there are.
Progress: TypeAlias = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class _Prepared:
    """An image that is decoded: what the model sees of it, and the item without its vector."""

    square: Square
    item: Item


def embed_into(
    load: Loading, embedder: Embedder, entries: Sequence[Entry], *, flip: bool, progress: Progress = silent
) -> dict[str, str]:
    """Embeds images and stages them, all but those that are staged already.

    Batches are cut by the place in `entries`, whatever is staged, so that a load which was broken off gives the same
    vectors to the last bit as one that was not: what a network makes of an image may depend in the last bit on the
    batch.

    Args:
        load: where they go.
        embedder: the model.
        entries: the images.
        flip: average in the embedding of each image's mirror image.
        progress: is told of each batch.

    Returns:
        Path -> reason, for images that cannot be decoded.
    """
    broken: dict[str, str] = {}
    waiting = [(place, entry) for place, entry in enumerate(entries) if entry.path not in load.staged]
    done = len(entries) - len(waiting)
    progress(done, len(entries))
    size = embedder.batch_size
    with ahead(lambda one: _prepare(one[1], embedder), waiting, threads=THREADS, most=AHEAD * size) as outcomes:
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
    pixels = decode(Path(entry.path))
    square = embedder.square(pixels)  # refuses what is too thin for a thumbnail as well
    facts = {"width": pixels.shape[1], "height": pixels.shape[0]} | entry.file_facts
    return _Prepared(square, Item(entry.path, entry.label, {**entry.metadata, **facts}, thumbnail(pixels)))


def _stage(load: Loading, embedder: Embedder, prepared: list[_Prepared], flip: bool) -> dict[str, str]:
    if not prepared:
        return {}
    vectors = embedder.embed_squares([one.square for one in prepared], flip=flip)
    usable = [bool(row.any()) for row in vectors]
    kept = [one.item for one, is_usable in zip(prepared, usable, strict=True) if is_usable]
    if kept:
        load.add(kept, vectors[usable])
    reason = "the model gives it a vector of zeros, which is like no other; leave it out"
    return {one.item.path: reason for one, is_usable in zip(prepared, usable, strict=True) if not is_usable}
