"""The page of embex duplicates: the images of each group side by side."""

from __future__ import annotations

from dataclasses import dataclass

from embedding_expansion.app.pages.pictures import Picture
from embedding_expansion.app.pages.rendering import render
from embedding_expansion.app.tables import count

#: Groups on the page, and pictures of each.
SHOWN_GROUPS, SHOWN_MEMBERS = 200, 24


@dataclass(frozen=True)
class Group:
    """Near-duplicates: how many, whether their labels differ, and those shown with their similarity to the closest."""

    size: int
    labels_differ: bool
    members: list[tuple[float, Picture]]


def copies_page(groups: list[Group], number_of_groups: int, facts: list[tuple[str, str]], folder: str) -> bytes:
    """The page.

    Args:
        groups: those that are shown.
        number_of_groups: how many there are.
        facts: about the search, each with its name.
        folder: which all paths lie in, and which is not said again with each.
    """
    title = f"{count(number_of_groups, 'group')} of near-duplicates" if groups else "No near-duplicates"
    facts = [*facts, ("folder", folder)] if folder else facts
    return render(
        "copies.html",
        kicker="Near-duplicates",
        title=title,
        facts=facts,
        groups=groups,
        total=number_of_groups,
        above=len(folder),
    )
