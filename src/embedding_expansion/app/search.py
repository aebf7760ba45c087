"""The command embex search."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonargparse

from embedding_expansion.app.arguments import command, parse
from embedding_expansion.app.next_step import print_next
from embedding_expansion.errors import DataError, InvalidInput, StoreError

if TYPE_CHECKING:
    import numpy as np

    from embedding_expansion.app.pages.pictures import PageImage
    from embedding_expansion.inference.collection import Answer, Collection
    from embedding_expansion.retrieval.index import Index

STDIN = "-"
NOTHING = "no image in the index has this label and prefix"


@dataclass(frozen=True)
class _Query:
    """A query: its name on the command line and its image; a vector has no image."""

    name: str
    image: Path | bytes | None = None

    @property
    def title(self) -> str:
        """The name to show."""
        return "image from stdin" if self.name == STDIN else self.name


@dataclass(frozen=True)
class _PageQuery:
    """A query on the HTML page.

    Attributes:
        name: its name.
        uri: its picture as a data URI; empty without a picture.
        known: whether the collection knows it; None without a threshold.
        verdict: the same in words; empty without a threshold.
        matches: its matches with their similarities.
    """

    name: str
    uri: str
    known: bool | None
    verdict: str
    matches: list[tuple[float, PageImage]]


def run(arguments: list[str]) -> int:
    """Searches an index by images; returns the exit status, 1 if some of them could not be read."""
    given = parse(_options(), arguments)

    from embedding_expansion.app.outputs import outputs
    from embedding_expansion.checks import as_whole
    from embedding_expansion.data.finding import is_vector_file
    from embedding_expansion.inference.collection import Collection

    as_whole(given.k, "k", least=1)
    with ExitStack() as opened:
        opened.enter_context(outputs(html=given.html, json=None if given.json == STDIN else given.json))
        images = [] if is_vector_file(*given.images) else _read(given.images)
        collection = opened.enter_context(Collection.open(given.index, device=given.device))
        if not collection.index.count():
            raise StoreError(f"{collection.index.location} holds no images; add some with embex add")
        broken = dict[int, str]()
        if images:
            queries, vectors = _of_images(collection, images, broken)
        else:
            queries, vectors = _of_vectors(collection, Path(given.images[0]))
        answers = _answers(collection, queries, vectors, given)
        if given.json != STDIN:
            _print(answers, given)
        if given.json is not None:
            left_out = [{"query": images[position].name, "reason": reason} for position, reason in broken.items()]
            _write_json(answers, left_out, given)
        if given.html is not None:
            _write_page(collection, answers, given)
        if given.json != STDIN:
            print_next(["embex", "serve", given.index])
    for position, reason in broken.items():
        print(f"embex: skipped {images[position].name}: {reason}", file=sys.stderr)
    return 1 if broken else 0


def _options() -> jsonargparse.ArgumentParser:
    options = command(
        "search",
        "Searches an index for the images that are most similar to yours.",
    )
    options.add_argument("index", type=str, help="the index: a folder, or a postgresql:// URL")
    options.add_argument(
        "images",
        type=str,
        nargs="+",
        help="images to search for, or folders of images; - reads one from stdin; or one .npz or .parquet file of "
        "vectors",
    )
    options.add_argument("-k", "--k", type=int, default=10, help="number of matches per image")
    options.add_argument(
        "--qe", type=int, default=0, help="query expansion: neighbours averaged into the query; 0 turns it off"
    )
    options.add_argument(
        "--alpha", type=float, default=3.0, help="query expansion: weigh each neighbour by its similarity to this power"
    )
    options.add_argument("--label", type=str | None, default=None, help="search only images with this label")
    options.add_argument(
        "--prefix", type=str | None, default=None, help="search only images whose path starts with this"
    )
    options.add_argument("--html", type=str | None, default=None, help="write an HTML page with pictures to this file")
    options.add_argument("--json", type=str | None, default=None, help="write JSON to this file; - for stdout")
    options.add_argument("--device", type=str, default="auto", help="device of the model: auto, cpu, cuda, cuda:1, ...")
    return options


def _read(names: list[str]) -> list[_Query]:
    """Reads the queries: existing files, the images in folders, and at most one image from stdin."""
    from embedding_expansion.data.finding import find_images

    if names.count(STDIN) > 1:
        raise InvalidInput("stdin provides one image only; pass - once")
    for name in names:
        if name != STDIN and not Path(name).exists():
            raise DataError(f"the image {name} does not exist; pass image files or folders to search for")
    queries = list[_Query]()
    for name in names:
        if name == STDIN:
            queries.append(_Query(name, sys.stdin.buffer.read()))
        elif Path(name).is_dir():
            queries += [_Query(str(file.path), file.read) for file in find_images([name]).files]
        else:
            queries.append(_Query(name, Path(name)))
    return queries


def _of_images(collection: Collection, images: list[_Query], broken: dict[int, str]) -> tuple[list[_Query], np.ndarray]:
    """Embeds the readable images. The positions of the others are added to `broken`, with the reason."""
    vectors = collection.embed((query.image for query in images if query.image is not None), broken=broken)
    if len(broken) == len(images):
        raise DataError(f"none of {len(images)} images can be read; the first error: {broken[0]}")
    return [query for position, query in enumerate(images) if position not in broken], vectors


def _of_vectors(collection: Collection, file: Path) -> tuple[list[_Query], np.ndarray]:
    """Embeds the rows of a file of vectors."""
    from embedding_expansion.data.vectors import read_rows
    from embedding_expansion.inference.vector_index import names_of

    rows, others = read_rows(file)
    return [_Query(name) for name in names_of(file, len(rows), others)], collection.embed_rows(rows)


def _answers(
    collection: Collection, queries: list[_Query], vectors: np.ndarray, given: jsonargparse.Namespace
) -> list[tuple[_Query, Answer]]:
    """Searches for each query."""
    where = {"label": given.label} if given.label is not None else {}
    if given.prefix is not None:
        where["path_prefix"] = full_prefix(given.prefix)
    found = collection.search(vectors, given.k, qe=given.qe, alpha=given.alpha, where=where)
    return list(zip(queries, found, strict=True))


def full_prefix(given: str) -> str:
    """An absolute prefix of indexed paths. That of a folder ends with a separator."""
    is_folder = given.endswith(os.sep) or os.path.isdir(given)
    return os.path.join(os.path.abspath(given), "") if is_folder else os.path.abspath(given)


def verdict(answer: Answer) -> str:
    """A phrase on whether the collection knows the query; empty without a calibrated threshold."""
    if answer.known is None:
        return ""
    if answer.known:
        return f"known: the closest match reaches the calibrated threshold {answer.threshold:.3f}"
    return f"unknown: no match reaches the calibrated threshold {answer.threshold:.3f}; the closest are listed anyway"


def _print(answers: list[tuple[_Query, Answer]], given: jsonargparse.Namespace) -> None:
    from embedding_expansion.app.tables import plain, table

    for query, answer in answers:
        print(": ".join(part for part in (plain(query.title), verdict(answer)) if part))
        rows = [
            [str(rank), f"{match.similarity:.4f}", match.item.label or "–", match.item.path]
            for rank, match in enumerate(answer.matches, start=1)
        ]
        print(table(["rank", "similarity", "label", "path"], rows, right=(0, 1)) if rows else NOTHING, end="\n\n")
    if given.qe:
        print(f"Query expansion: the similarities are to the average of each query and its {given.qe} closest images.")
    if answers[0][1].reason:
        print(f"Known or unknown: {answers[0][1].reason}.")


def _write_json(
    answers: list[tuple[_Query, Answer]],
    left_out: list[dict[str, str]],
    given: jsonargparse.Namespace,
) -> None:
    from embedding_expansion.files import write_atomically

    content = {
        "k": given.k,
        "qe": given.qe,
        "alpha": given.alpha,
        "threshold": answers[0][1].threshold,
        "reason": answers[0][1].reason,
        "queries": [_as_json(query.name, answer) for query, answer in answers],
        "broken": left_out,
    }
    text = json.dumps(content, indent=2) + "\n"  # ASCII escapes also represent undecodable file names
    if given.json == STDIN:
        print(text, end="")
    else:
        write_atomically(Path(given.json), lambda partial: partial.write_text(text, encoding="ascii"))


def _as_json(name: str, answer: Answer) -> dict[str, Any]:
    matches = [
        {
            "rank": rank,
            "similarity": match.similarity,
            "label": match.item.label,
            "path": match.item.path,
            "id": match.item.id,
            "metadata": dict(match.item.metadata),
        }
        for rank, match in enumerate(answer.matches, start=1)
    ]
    return {"query": name, "known": answer.known, "matches": matches}


def _write_page(
    collection: Collection,
    answers: list[tuple[_Query, Answer]],
    given: jsonargparse.Namespace,
) -> None:
    from embedding_expansion.app.pages.pictures import PageImages, file_name, uri_of
    from embedding_expansion.app.pages.rendering import render, write_page

    images, index = PageImages(collection.index), collection.index
    queries = [
        _PageQuery(
            file_name(query.title),
            "" if query.image is None else uri_of(query.image),
            answer.known,
            verdict(answer),
            [(match.similarity, images[match.item]) for match in answer.matches],
        )
        for query, answer in answers
    ]
    searched_for = queries[0].name if len(queries) == 1 else f"{len(queries)} images"
    conditions = [f"label {given.label}"] if given.label is not None else []
    conditions += [f"paths that start with {full_prefix(given.prefix)}"] if given.prefix is not None else []
    facts = [("index", index.location), ("images", f"{index.count():,}"), ("search", _exactness(index))]
    facts += [("query expansion", f"{given.qe} images, alpha {given.alpha:g}")] if given.qe else []
    facts += [("only", ", ".join(conditions))] if conditions else []
    title = f"Images most similar to {searched_for}"
    write_page(Path(given.html), render("answers.html", kicker="Search", title=title, facts=facts, queries=queries))
    if given.json != STDIN:
        print(f"page: {given.html}")


def _exactness(index: Index) -> str:
    return "exact" if index.recall is None else f"{index.kind}, recall {index.recall.value:.1%}"
