"""Lists the named data sets: where each comes from, and where it was found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedding_expansion.data import glyphs
from embedding_expansion.data.datasets import DATASETS
from embedding_expansion.data.official import DatasetCounts, SplitCounts
from embedding_expansion.data.sources import SOURCES, search_folders


@dataclass(frozen=True)
class Listing:
    """One data set, as `embex data` lists it.

    Attributes:
        name: the name to pass to `open_dataset`.
        title: the name under which results are printed.
        what: its content in one line.
        counts: the numbers of classes and images of the whole set.
        page: its official page.
        licence: the conditions of use.
        folders: the folders of a root in which it is searched for, "." for the root; empty for the embedded set.
        looked_for: the folders that were searched, in order; empty for the embedded set.
        found: the folder that holds it, or None. It is None for the embedded set, which is always available.
        is_embedded: whether the set needs no files.
        downloadable: whether `download` can fetch the set.
        instructions: how to get the set by hand if `download` cannot fetch it.
    """

    name: str
    title: str
    what: str
    counts: DatasetCounts
    page: str
    licence: str
    folders: tuple[str, ...]
    looked_for: tuple[Path, ...]
    found: Path | None
    is_embedded: bool
    downloadable: bool
    instructions: str


def describe(root: Path | None = None) -> list[Listing]:
    """Lists every named data set.

    Args:
        root: the folder in which to search for the sets; None for those of `search_folders`.
    """
    listings = []
    for name, layout in DATASETS.items():
        source = SOURCES[name]
        looked_for = () if layout is None else tuple(b / f for b in search_folders(root) for f in layout.folders)
        listings.append(
            Listing(
                name=name,
                title=name if layout is None else layout.title,
                what=source.what,
                counts=_GLYPHS if layout is None else layout.expected,
                page=source.page,
                licence=source.licence,
                folders=() if layout is None else layout.folders,
                looked_for=looked_for,
                found=None if layout is None else layout.find(root),
                is_embedded=layout is None,
                downloadable=bool(source.archives),
                instructions=source.instructions,
            )
        )
    return listings


_GLYPHS = DatasetCounts(
    train=SplitCounts(len(glyphs.TRAIN_CHARACTERS), len(glyphs.TRAIN_CHARACTERS) * glyphs.TRAIN_PER_CLASS),
    test=SplitCounts(len(glyphs.TEST_CHARACTERS), len(glyphs.TEST_CHARACTERS) * glyphs.TEST_PER_CLASS),
)
