"""Gives another environment what this package needs, and nothing else, as hard links: torch alone needs 5.5 GB.

python .ci/lend.py FOLDER: the site-packages of the other environment. Packages that are built for one version of Python
go to an environment of the same version only.
"""

import os
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def needed(text: str, found: dict[str, set[str]]) -> None:
    """Adds a requirement, and what it requires itself, to those found: name -> extras."""
    requirement = Requirement(text)
    try:
        package = distribution(requirement.name)
    except PackageNotFoundError:  # of an extra, or of another system: pip decides
        return
    extras = {"", *requirement.extras} - found.setdefault(package.name, set())
    found[package.name] |= extras
    for inner in package.requires or ():
        marker = Requirement(inner).marker
        if any(marker is None or marker.evaluate({"extra": extra}) for extra in extras):
            needed(inner, found)


def lend(name: str, folder: Path) -> None:
    """Links the files of a package that lie in site-packages."""
    package = distribution(name)
    same = f"python{sys.version_info.major}.{sys.version_info.minor}" in folder.parts
    if not same and "Tag: py3-none" not in (package.read_text("WHEEL") or ""):
        return
    for file in package.files or ():
        source = Path(str(package.locate_file(file)))
        if ".." not in file.parts and source.is_file():
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages: dict[str, set[str]] = {}
    for dependency in project["dependencies"]:
        needed(dependency, packages)
    for each in packages:
        lend(each, Path(sys.argv[1]))
