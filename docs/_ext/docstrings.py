"""Convert the docstrings of this package to reStructuredText.

The docstrings are plain text with `code` in backticks, examples, and sections in Google style. The sections "Source:"
and "Differs from the source:" are written as paragraphs. Annotations appear as in the source: `Float[Tensor, "b d"]`.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

# A section may also begin in the middle of a paragraph, after the end of a sentence.
_SECTION = re.compile(r"(?:^|(?<=[.;?!)])\s)(Source|Shapes|Differs\s+from\s+the\s+source):\s+(?=\S)")
# Entries of "Raises" are sentences that may continue on the next line without further indentation.
_RAISES = re.compile(r"^Raises:\n(?:[ ]+\S.*\n?)+", re.MULTILINE)
# A paragraph that is indented more than the previous one is a formula or code.
_INDENTED = re.compile(r"((?:^|\n)\S[^\n]*)\n\n(?=[ ]{4})")
_CODE = re.compile(r"(^[ ]*>>> (?:.+\n?)+|(?<=::\n\n)(?:[ ]{4}.*\n|\n)+)", re.MULTILINE)


def as_restructured_text(text: str) -> str:
    """Return a docstring in the form that napoleon reads: sections under headings, and no markup except `code`."""
    text = _RAISES.sub(lambda found: re.sub(r"\n[ ]+(?=\S)(?!\w+(?:, \w+)*:)", " ", found[0]), text)
    text = _INDENTED.sub(
        lambda found: found[1].removesuffix(":") + ("::" if found[1][-1] == ":" else "\n\n::") + "\n\n", text
    )
    paragraphs = re.split(r"\n[ ]*\n", text)
    text = "\n\n".join(_as_sections(paragraph) if _SECTION.match(paragraph) else paragraph for paragraph in paragraphs)
    return "".join(part if number % 2 else _escaped(part) for number, part in enumerate(_CODE.split(text)))


def _as_sections(paragraph: str) -> str:
    """Split `Source: a. Differs from the source: b` into two sections with a body each."""
    found = list(_SECTION.finditer(paragraph))
    ends = [*(match.start() for match in found[1:]), len(paragraph)]
    sections = []
    for match, end in zip(found, ends, strict=True):
        title, body = (" ".join(part.split()) for part in (match[1], paragraph[match.end() : end]))
        sections.append(f"{title}:\n    {body if title == 'Shapes' else body[0].upper() + body[1:]}")
    return "\n\n".join(sections)


def _escaped(text: str) -> str:
    """Escape text outside of backticks, so that `*named`, |P| and x_ are not markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        re.sub(r"\s*\n\s*", " ", part) if number % 2 else re.sub(r"([*|]|(?<=\w)_\b)", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def before_napoleon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Convert every docstring before napoleon reads it."""
    lines[:] = as_restructured_text("\n".join(lines)).split("\n")


def after_napoleon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Restore the docstrings of properties, where napoleon takes the text before a colon for a type."""
    if what == "property":
        lines[:] = as_restructured_text(inspect.getdoc(obj) or "").split("\n")


def keep_annotations(app: Sphinx, obj: Any, bound_method: bool) -> None:
    """Keep annotations as they are written; evaluating one turns a shape into a class with another name."""
    function = getattr(obj, "__func__", obj)
    if hasattr(function, "__code__"):
        function.__no_type_check__ = True


def without_factories(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show the default factories of dataclasses as `...` in signatures."""
    return signature and signature.replace("<factory>", "..."), returned


def quote(app: Sphinx, domain: str, objtype: str, content: nodes.Element) -> None:
    """Show strings in signatures in double quotes, as in the source, without the leading space of 1-D shapes."""
    for signature in content.parent.findall(addnodes.desc_signature):
        for text in signature.findall(nodes.Text):
            shown = re.sub(r"'\s?([^']*)'", r'"\1"', text)
            if shown != text:
                text.parent.replace(text, nodes.Text(shown))


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, name: nodes.TextElement
) -> nodes.Node | None:
    """Link a short name of this package to the one place that documents it; other text in backticks stays code."""
    if node.get("refdomain") != "py":
        return None
    target, objects = node["reftarget"], env.domains.python_domain.objects
    above = [full for full in objects if full.endswith(f".{target}") and _is_canonical(full, objects)]
    public = f"embedding_expansion.{target}"
    full = public if public in objects else above[0] if len(above) == 1 else None
    if full is not None:
        place = objects[full]
        return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, [name], full)
    return name if node["reftype"] == "obj" else None


def _is_canonical(name: str, objects: dict[str, Any]) -> bool:
    """Return whether a name is neither a method or attribute nor an alias of a public name."""
    return objects[name].objtype in ("function", "class", "exception", "data", "type") and not objects[name].aliased


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the handlers with Sphinx."""
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-before-process-signature", keep_annotations)
    app.connect("autodoc-process-signature", without_factories)
    app.connect("object-description-transform", quote)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
