"""The page of `embex compare`: the differences, and the queries that only one of two runs answers correctly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedding_expansion.app.pages.rendering import render, write_page
from embedding_expansion.training.compared import MEASURES, Compared

if TYPE_CHECKING:
    from embedding_expansion.app.report.gallery import Album, Picture

#: Queries of each kind that are shown.
SHOWN = 12


@dataclass(frozen=True)
class Pair:
    """A query and the image that each of two runs finds closest."""

    query: Picture
    before: Picture
    after: Picture


@dataclass(frozen=True)
class Section:
    """A run against the first one.

    Attributes:
        name: the run.
        won, lost: how many queries only this run, or only the first one, answers correctly.
        gains, losses: some of them.
    """

    name: str
    won: int
    lost: int
    gains: list[Pair]
    losses: list[Pair]


def write_comparison_page(found: Sequence[Compared], path: Path) -> None:
    """Writes the page.

    Args:
        found: the runs, the baseline first.
        path: the file to write.

    Raises:
        RunError: the file cannot be written.
    """
    from embedding_expansion.app.report.gallery import Album

    first = found[0]
    album = Album(first.tested.images)
    rows = [(each.name, [(f"{each.mean(measure):.3f}", each.shown(measure)) for measure in MEASURES]) for each in found]
    facts = [
        ("data", first.tested.job.dataset.name),
        ("queries", f"{len(first.values['recall_at_1']):,}"),
        ("compared with", first.name),
    ]
    page = render(
        "comparison.html",
        kicker="Comparison",
        title=f"{len(found)} runs on the same images",
        facts=facts,
        measures=list(MEASURES.values()),
        rows=rows,
        first=first.name,
        sections=[_section(first, each, album) for each in found[1:]],
    )
    write_page(path, page)


def _section(first: Compared, other: Compared, album: Album) -> Section:
    before, after = (each.values["recall_at_1"] for each in (first, other))
    won, lost = np.flatnonzero(after > before), np.flatnonzero(after < before)
    shown = [rows[np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).round().astype(int)] for rows in (won, lost)]
    pairs = [_pairs(first, other, rows, album) for rows in shown]
    return Section(other.name, len(won), len(lost), *pairs)


def _pairs(first: Compared, other: Compared, rows: np.ndarray, album: Album) -> list[Pair]:
    """The queries at some places among all queries, with what both runs find."""
    if not len(rows):
        return []
    images = first.tested.images
    queries = np.arange(len(images)) if images.is_query is None else np.flatnonzero(images.is_query)
    chosen = queries[rows]
    before, after = (_closest(each, chosen) for each in (first, other))
    return [Pair(album[int(at)], album[one], album[two]) for at, one, two in zip(chosen, before, after, strict=True)]


def _closest(each: Compared, rows: np.ndarray) -> list[int]:
    """The image of the gallery that is closest to each of some images, which are not compared with themselves."""
    vectors, images = each.tested.vectors, each.tested.images
    table = vectors[torch.from_numpy(rows)] @ vectors.T
    table[torch.arange(len(rows)), torch.from_numpy(rows)] = -torch.inf
    if images.is_gallery is not None:
        table[:, torch.from_numpy(~images.is_gallery)] = -torch.inf
    found: list[int] = table.argmax(dim=1).tolist()
    return found
