"""What data sets there are, where they come from, and where each was found."""

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
        name: what `open_dataset` takes.
        title: what results are printed under.
        what: one line on its content.
        counts: of the whole set.
        page: its official page.
        licence: who may use it for what.
        folders: the folders of a root in which it is looked for, "." for the root itself; empty for the embedded set.
        looked_for: the folders tried, in this order; empty for the embedded set.
        found: the folder that holds it, or None. The embedded set is always there and has none.
        is_embedded: whether it needs no files.
        downloadable: whether `download` can fetch it.
        instructions: how to get it by hand where it cannot.
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
    """Every named data set.

    Args:
        root: where to look for them; by default the usual folders.
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
