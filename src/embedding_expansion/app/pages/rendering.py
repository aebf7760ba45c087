"""Renders templates to HTML pages and writes them. Does not import torch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from embedding_expansion.files import write_atomically

_OWN = Path(__file__).parent / "templates"


@functools.cache
def environment(*others: Path) -> jinja2.Environment:
    """The Jinja environment for the templates of this folder, and of other folders that extend its layout.

    All values are escaped, and an undefined name is an error.
    """
    folders = (_OWN, *others)
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def include_raw(name: str) -> Markup:
        (path,) = [folder / name for folder in folders if (folder / name).exists()]
        return Markup(path.read_text(encoding="utf-8"))

    made.globals["include_raw"] = include_raw
    made.filters["soft"] = _soft
    return made


def render(template: str, **content: Any) -> bytes:
    """Renders a template of this folder."""
    page = environment().get_template(template).render(**content)
    return page.encode("utf-8", "replace")  # file names may contain undecodable bytes


def write_page(path: Path, page: bytes) -> None:
    """Writes a page atomically.

    Raises:
        RunError: the file cannot be written.
    """
    write_atomically(path, lambda partial: partial.write_bytes(page))


def _soft(name: str) -> Markup:
    """Allows line breaks after the underscores of a name."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))
