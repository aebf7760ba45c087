"""The page of embex search: each query beside what was found for it."""

from __future__ import annotations

from dataclasses import dataclass

from embedding_expansion.app.pages.pictures import Picture
from embedding_expansion.app.pages.rendering import render


@dataclass(frozen=True)
class Shown:
    """A query as the page shows it: name, picture (empty where there is none), verdict, similarities and matches."""

    name: str
    uri: str
    known: bool | None
    verdict: str
    matches: list[tuple[float, Picture]]


def answers_page(queries: list[Shown], facts: list[tuple[str, str]]) -> bytes:
    """The page.

    Args:
        queries: in their order.
        facts: about the search, each with its name.
    """
    title = f"What is most like {queries[0].name}" if len(queries) == 1 else f"What is most like {len(queries)} images"
    return render("answers.html", kicker="Search", title=title, facts=facts, queries=queries)
