"""Reading what was built: the elements of an HTML page, and where its links lead."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


@dataclass
class Page(HTMLParser):
    """The elements of a page with their attributes, its anchors, and its text."""

    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def read(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def anchors(self) -> set[str]:
        """What a link into the page may name after #."""
        return {value for _, given in self.elements for name, value in given.items() if name in ("id", "name")}

    def addresses(self, *names: str) -> list[str]:
        """The values of these attributes, wherever they stand."""
        return [given[name] for _, given in self.elements for name in names if name in given]
