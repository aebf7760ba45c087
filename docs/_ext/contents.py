"""The sidebar is the list of pages that the root page shows, and files of the repository's root join the site."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

#: Pages that are a file of the repository's root.
OF_THE_ROOT = {f"project/{name}": f"{name.upper()}.md" for name in ("architecture", "contributing", "changelog")}


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """What becomes of a page before it is parsed."""
    if name in OF_THE_ROOT:
        source[0] = _file_of_the_root(app, name)
    elif name == app.config.root_doc:
        source[0] += _contents(source[0])
    elif name.count("/") == 0:
        for page, file in OF_THE_ROOT.items():
            source[0] = source[0].replace(f"](../{file}", f"]({page}.md")


def _contents(text: str) -> str:
    """A hidden table of contents for each heading of the root page, of the pages that its list links to.

    So index.md stays plain Markdown, and a page that it does not list is a warning, which is an error.
    """
    tables = ""
    for heading, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE):
        pages = re.findall(r"^- \[.+?\]\(([\w/-]+)\.(?:md|rst)\)", body, re.MULTILINE)
        if pages:
            tables += "\n".join(["", "```{toctree}", ":hidden:", f":caption: {heading}", "", *pages, "```", ""])
    return tables


def _file_of_the_root(app: Sphinx, name: str) -> str:
    """The file, with links that start from project/ instead of the root."""
    path = app.srcdir.parent / OF_THE_ROOT[name]
    app.env.note_dependency(path)
    text = re.sub(r"\]\(docs/", "](../", path.read_text(encoding="utf-8"))
    for page, file in OF_THE_ROOT.items():
        text = text.replace(f"]({file}", f"]({page.removeprefix('project/')}.md")
    return text


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects it."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
