"""The documentation site, built by `sphinx-build -W --keep-going -n docs docs/_build`.

The build does not check links to other hosts, because neither it nor the tests need a network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import embedding_expansion

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "embedding-expansion"
version = release = embedding_expansion.__version__
copyright = "The embedding-expansion authors, MIT licence"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "docstrings",
    "contents",
    "commands",
]
exclude_patterns = ["_build", "_ext", "drawing"]

# Markdown as GitHub reads it; links to headings are checked.
myst_heading_anchors = 3

# `name` in a docstring is code, and a link if this package has an object of that name.
default_role = "py:obj"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = ["Source", "Differs from the source", "Shapes"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
add_module_names = False
smartquotes = False  # docstrings quote texts as code does
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries = False

# Types that other hosts document, and types of this package that are not in the reference.
nitpick_ignore_regex = [
    (
        "py:class",
        r"(np|npt|numpy|torch|nn|jaxtyping|os|pathlib|collections\.abc|Image)\..+|ndarray|Tensor|Float|Int|Bool|Path",
    ),
    ("py:class", r"'[a-z0-9_ ]+'"),  # the shape in an annotation
    (
        "py:class",
        r"AskedKind|Batch|ImageTransform|Linkage|Manifest|Network|Pixels|Precision|Prepared|ProxyLoss|SearchSides|Square"
        r"|Store|Tested",
    ),
    ("py:class", r"embedding_expansion\.core\.inputs\.IntegerArray"),
]

html_theme = "furo"
html_title = f"embedding-expansion {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
