"""Build the sidebar from the list of pages on the root page, and add files of the repository's root to the site."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

#: Pages of the site that are files of the repository's root.
ROOT_FILES = {f"project/{name}": f"{name.upper()}.md" for name in ("architecture", "contributing", "changelog")}


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Change the source of a page before it is parsed."""
    if name in ROOT_FILES:
        source[0] = _root_file(app, name)
    elif name == app.config.root_doc:
        source[0] += _contents(source[0])
    elif name.count("/") == 0:
        for page, file in ROOT_FILES.items():
            source[0] = source[0].replace(f"](../{file}", f"]({page}.md")


def _contents(text: str) -> str:
    """Return a hidden table of contents for each heading of the root page, with the pages that its list links to.

    index.md therefore stays plain Markdown. A page that it does not list is a warning, which fails the build.
    """
    tables = ""
    for heading, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE):
        pages = re.findall(r"^- \[.+?\]\(([\w/-]+)\.(?:md|rst)\)", body, re.MULTILINE)
        if pages:
            tables += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```", ""])
    return tables


def _root_file(app: Sphinx, name: str) -> str:
    """Return the text of the file, with links relative to project/ instead of the root."""
    path = app.srcdir.parent / ROOT_FILES[name]
    app.env.note_dependency(path)
    text = re.sub(r"\]\(docs/", "](../", path.read_text(encoding="utf-8"))
    for page, file in ROOT_FILES.items():
        text = text.replace(f"]({file}", f"]({page.removeprefix('project/')}.md")
    return text


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the handler with Sphinx."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
