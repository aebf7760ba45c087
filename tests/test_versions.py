"""The versions that the suite passed with, and the lowest ones that may be installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = {
    text: Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
}


def pins(lines: str) -> dict[str, str]:
    """Name -> version; nothing but comments may stand beside them."""
    found = {}
    for line in lines.splitlines():
        if not line.startswith("#"):
            name, version = re.fullmatch(r"([A-Za-z0-9_.-]+)==([0-9][0-9A-Za-z.]*)", line).groups()
            assert canonicalize_name(name) not in found, line
            found[canonicalize_name(name)] = version
    return found


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", DEPENDENCIES)
def test_constraints_pin_every_dependency_to_a_version_that_is_allowed(text: str) -> None:
    wanted = DEPENDENCIES[text]
    assert CONSTRAINTS[canonicalize_name(wanted.name)] in wanted.specifier


def test_the_lowest_versions_are_those_of_the_project() -> None:
    ran = subprocess.run([sys.executable, ".ci/lowest.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    lowest = pins(ran.stdout)
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]):
        wanted = DEPENDENCIES[text]
        assert {f">={lowest[canonicalize_name(wanted.name)]}"} == {str(one) for one in wanted.specifier}
