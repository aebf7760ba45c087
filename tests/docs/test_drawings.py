"""The pictures of the concepts: drawn by scripts that run, and shown by a page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.pages import DOCS

SCRIPTS = {path.stem: path for path in sorted((DOCS / "drawing").glob("*.py")) if path.stem != "style"}
PLACE = re.compile(r"\{http://www.w3.org/1999/xlink\}href|href|src")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_draws_a_picture_that_asks_for_no_other_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "picture.svg"
    subprocess.run([sys.executable, str(SCRIPTS[name]), str(file)], check=True, timeout=120, cwd=tmp_path)
    elements = list(ElementTree.parse(file).iter())
    assert len(elements) > 50
    used = [value for element in elements for key, value in element.attrib.items() if PLACE.fullmatch(key)]
    assert all(value.startswith(("#", "data:image/png")) for value in used)
    assert not [element for element in elements if element.tag.endswith("}text")]  # outlines, so no font


def test_every_picture_is_shown_and_every_one_shown_is_there() -> None:
    shown = {
        place for page in DOCS.glob("*.md") for place in re.findall(r"!\[[^\]]*\]\(([\w-]+\.svg)\)", page.read_text())
    }
    assert shown == {path.name for path in DOCS.glob("*.svg")}
    assert {name.replace("_", "-") + ".svg" for name in SCRIPTS} <= shown
