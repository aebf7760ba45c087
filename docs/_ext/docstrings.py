"""From the docstrings of this package to reStructuredText.

They are plain text with `code` in backticks and examples, sections in Google style, and the sections "Source:" and
"Differs from the source:" written as a paragraph. Annotations are shown as the source has them, `Float[Tensor, "b d"]`.
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

# The last of them may also be the end of a paragraph.
_SECTION = re.compile(r"(?:^|(?<=[.;?!)])\s)(Source|Shapes|Differs\s+from\s+the\s+source):\s+(?=\S)")
# What is raised is told in sentences that may go on in the next line, as far to the left.
_RAISES = re.compile(r"^Raises:\n(?:[ ]+\S.*\n?)+", re.MULTILINE)
# A paragraph farther to the right than the one before it is a formula or code.
_INDENTED = re.compile(r"((?:^|\n)\S[^\n]*)\n\n(?=[ ]{4})")
_CODE = re.compile(r"(^[ ]*>>> (?:.+\n?)+|(?<=::\n\n)(?:[ ]{4}.*\n|\n)+)", re.MULTILINE)


def as_restructured_text(text: str) -> str:
    """A docstring as napoleon reads it: sections under headings of their own, nothing marked up that is not `code`."""
    text = _RAISES.sub(lambda found: re.sub(r"\n[ ]+(?=\S)(?!\w+(?:, \w+)*:)", " ", found[0]), text)
    text = _INDENTED.sub(
        lambda found: found[1].removesuffix(":") + ("::" if found[1][-1] == ":" else "\n\n::") + "\n\n", text
    )
    paragraphs = re.split(r"\n[ ]*\n", text)
    text = "\n\n".join(_as_sections(paragraph) if _SECTION.match(paragraph) else paragraph for paragraph in paragraphs)
    return "".join(part if number % 2 else _escaped(part) for number, part in enumerate(_CODE.split(text)))


def _as_sections(paragraph: str) -> str:
    """`Source: a. Differs from the source: b` as two sections with a body each."""
    found = list(_SECTION.finditer(paragraph))
    ends = [*(match.start() for match in found[1:]), len(paragraph)]
    sections = []
    for match, end in zip(found, ends, strict=True):
        title, body = (" ".join(part.split()) for part in (match[1], paragraph[match.end() : end]))
        sections.append(f"{title}:\n    {body if title == 'Shapes' else body[0].upper() + body[1:]}")
    return "\n\n".join(sections)


def _escaped(text: str) -> str:
    """What stands outside of backticks means itself: `*named`, |P|, x_ are no markup."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        re.sub(r"\s*\n\s*", " ", part) if number % 2 else re.sub(r"([*|]|(?<=\w)_\b)", r"\\\1", part)
        for number, part in enumerate(parts)
    )


def before_napoleon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Every docstring."""
    lines[:] = as_restructured_text("\n".join(lines)).split("\n")


def after_napoleon(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Those of properties as before: what they say up to a colon, it takes for a type."""
    if what == "property":
        lines[:] = as_restructured_text(inspect.getdoc(obj) or "").split("\n")


def keep_annotations(app: Sphinx, obj: Any, bound_method: bool) -> None:
    """Leave annotations as they are written; evaluated, a shape is a class with a name of its own."""
    function = getattr(obj, "__func__", obj)
    if hasattr(function, "__code__"):
        function.__no_type_check__ = True


def without_factories(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A default that a dataclass makes anew each time is no text that a signature may hold."""
    return signature and signature.replace("<factory>", "..."), returned


def quote(app: Sphinx, domain: str, objtype: str, content: nodes.Element) -> None:
    """Texts in signatures stand in double quotes, as in the source; the blank that a single dimension needs goes."""
    for signature in content.parent.findall(addnodes.desc_signature):
        for text in signature.findall(nodes.Text):
            shown = re.sub(r"'\s?([^']*)'", r'"\1"', text)
            if shown != text:
                text.parent.replace(text, nodes.Text(shown))


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, name: nodes.TextElement
) -> nodes.Node | None:
    """Link a short name of this package to the one place that describes it; other text in backticks stays code."""
    if node.get("refdomain") != "py":
        return None
    target, objects = node["reftarget"], env.domains.python_domain.objects
    above = [full for full in objects if full.endswith(f".{target}") and _stands_alone(full, objects)]
    public = f"embedding_expansion.{target}"
    full = public if public in objects else above[0] if len(above) == 1 else None
    if full is not None:
        place = objects[full]
        return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, [name], full)
    return name if node["reftype"] == "obj" else None


def _stands_alone(name: str, objects: dict[str, Any]) -> bool:
    """Whether a name is no method or attribute, and not a second name of what has a public one."""
    return objects[name].objtype in ("function", "class", "exception", "data", "type") and not objects[name].aliased


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects them."""
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    app.connect("autodoc-before-process-signature", keep_annotations)
    app.connect("autodoc-process-signature", without_factories)
    app.connect("object-description-transform", quote)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
