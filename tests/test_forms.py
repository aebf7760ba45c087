"""The forms of expansion by name: what each does, and that help and documentation have them all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

from embedding_expansion.forms import FORMS, FormName
from embedding_expansion.runs.options import ExpansionConfig


def test_the_forms_of_expansion_are_those_of_the_documentation() -> None:
    assert {name: (form.scope, form.balance, form.selective) for name, form in FORMS.items()} == {
        "paper": ("class_pair", False, False),
        "anchor": ("anchor", False, False),
        "balanced": ("class_pair", True, False),
        "balanced_sphere": ("class_pair", "sphere", False),
        "negative": ("negative", False, False),
        "balanced_negative": ("negative", True, False),
        "selective": ("class_pair", False, True),
    }
    (described,) = get_type_hints(ExpansionConfig, include_extras=True)["form"].__metadata__
    page = (Path(__file__).parents[1] / "docs" / "forms.md").read_text(encoding="utf-8")
    for name in get_args(FormName):
        assert re.search(rf"\b{name}\b", described), name
        assert f"| `{name}`" in page
