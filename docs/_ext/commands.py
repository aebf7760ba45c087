"""The directive `commands`: the output of `embex COMMAND --help` for every command."""

from __future__ import annotations

import contextlib
import io
import os

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from embedding_expansion.app.cli import COMMANDS, SUBCOMMANDS, main

WIDTH = 84


class Commands(SphinxDirective):
    """Renders a section for each command."""

    def run(self) -> list[nodes.Node]:
        """Return the sections in the order of `embex --help`."""
        return [self._section(*each) for name, text in COMMANDS.items() for each in _with_parts(name, text)]

    def _section(self, name: str, text: str) -> nodes.section:
        section = nodes.section(ids=[f"embex-{name.replace(' ', '-')}"])
        section += nodes.title(text=f"embex {name}")
        section += nodes.paragraph(text=f"{text[0].upper()}{text[1:]}.")
        text_of_help = _help(name)
        section += nodes.literal_block(text_of_help, text_of_help, language="none")
        return section


def _with_parts(name: str, text: str) -> list[tuple[str, str]]:
    """Return a command and its subcommands."""
    return [(name, text), *((part, of_part) for part, of_part in SUBCOMMANDS.items() if part.split()[0] == name)]


def _help(name: str) -> str:
    """Return the help of a command as it is printed."""
    out, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([*name.split(), "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return out.getvalue().strip()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive with Sphinx."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
