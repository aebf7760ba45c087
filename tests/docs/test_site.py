"""The documentation site: it builds without a warning, its links lead somewhere, it asks no other host for anything."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import embedding_expansion
from docs.pages import DOCS, Page
from embedding_expansion.app.cli import COMMANDS

SOURCES = sorted(DOCS.glob("*.md"))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page.read(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_of_the_folder_is_a_page_of_the_site(site: Path) -> None:
    for path in [*SOURCES, *DOCS.glob("api/*.rst"), *DOCS.glob("project/*.md")]:
        assert (site / path.relative_to(DOCS).with_suffix(".html")).is_file(), path


@pytest.mark.parametrize("source", [*SOURCES, *DOCS.glob("evidence/*.md")], ids=lambda path: path.stem)
def test_a_page_has_the_text_of_its_source(site: Path, pages: dict[Path, Page], source: Path) -> None:
    """Sphinx writes pages of its own, such as search.html, over those of the same name."""
    page = pages[(site / source.relative_to(DOCS).with_suffix(".html")).resolve()]
    text = _words(" ".join([page.text, *page.addresses("alt")]))
    written = re.sub(r"^```.*?^```", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    sentences = [line for line in written.splitlines() if re.fullmatch(r"[A-Z][\w ,.:;'’-]{30,}", line)]
    missing = [line for line in sentences if _words(line) not in text]
    assert not missing
    assert _words(re.search(r"^# (.+)$", written, flags=re.MULTILINE).group(1)) in text  # type: ignore[union-attr]


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_commands_have_a_button_that_copies_them(pages: dict[Path, Page], site: Path) -> None:
    scripts = pages[(site / "quickstart.html").resolve()].addresses("src")
    assert any("copybutton" in script for script in scripts)


def test_every_local_link_leads_to_a_file_and_an_anchor_that_are_there(site: Path, pages: dict[Path, Page]) -> None:
    lost, followed = [], 0
    for path, page in pages.items():
        for address in page.addresses("href", "src", "srcset", "data", "poster"):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            followed += 1
            inside = site.resolve() in target.parents and target.is_file()
            known = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].anchors
            if not (inside and known):
                lost.append(f"{path.relative_to(site.resolve())}: {address}")
    assert not lost
    assert followed > 1000


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    loading = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
    loading |= {"video": "src", "audio": "src", "embed": "src", "use": "href", "input": "src"}
    foreign = re.compile(r"\s*(\w[\w+.-]*:)?//|\s*https?:", re.IGNORECASE)
    loaded = [
        (path, given[loading[tag]])
        for path, page in pages.items()
        for tag, given in page.elements
        if tag in loading and loading[tag] in given
    ]
    assert len(loaded) > 100
    assert [entry for entry in loaded if foreign.match(entry[1])] == []
    styles = [style.read_text(encoding="utf-8") for style in site.rglob("*.css")]
    styles += [path.read_text(encoding="utf-8") for path in [*pages, *site.rglob("*.svg")]]
    for style in styles:
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?\s*(?:https?:)?//[^)]*", style)
    assert not [file for file in site.rglob("*") if file.suffix in (".woff", ".woff2", ".ttf", ".otf", ".eot")]


def test_every_public_name_is_described_in_the_reference(site: Path, pages: dict[Path, Page]) -> None:
    reference = [page for path, page in pages.items() if path.parent.name == "api"]
    described = set().union(*(page.anchors for page in reference))
    missing = [name for name in embedding_expansion.__all__ if f"embedding_expansion.{name}" not in described]
    assert not missing, f"add {missing} to a page of docs/api"


def test_shapes_and_sources_read_as_they_were_written(site: Path) -> None:
    text = " ".join(Page.read(site / "api" / "expansion.html").text.split())
    expand = text[text.index("expand(") :]
    assert 'embeddings: Float[Tensor, "b d"]' in expand
    assert 'rows: Int[Tensor, "a"] | None = None' in expand
    assert "Source Ko & Gu, CVPR 2020, sections 4.1 and 4.2." in expand
    assert "Differs from the source Everything is computed from inner products" in expand


def test_the_reference_has_every_command_with_its_options(site: Path) -> None:
    page = Page.read(site / "api" / "commands.html")
    assert {f"embex-{name}" for name in COMMANDS} <= page.anchors
    assert "--optimizer.loss_lr_factor" in page.text
    assert "--download" in page.text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_pages_stay_plain_markdown(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"^(?:```\s*\{|:::|%\s|\+\+\+)", text, flags=re.MULTILINE)
    outside = re.sub(r"`[^`\n]+`", "`", text)  # a role is {name} before code, not within it
    assert not re.findall(r"\{[\w:-]+\}`", outside)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_picture_says_in_words_what_it_shows(path: Path) -> None:
    for words in re.findall(r"!\[([^\]]*)\]\(", path.read_text(encoding="utf-8")):
        assert len(words.split()) >= 5
