"""The house: imports point downwards, the mathematics needs torch and jaxtyping only, the public names are pinned."""

from __future__ import annotations

import ast
import graphlib
import importlib
import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import embedding_expansion
from embedding_expansion.core.search import native

PACKAGE = Path(embedding_expansion.__file__).parent
NAME = "embedding_expansion"
FLOORS = {
    "errors": 0,
    "failures": 1,
    "checks": 1,
    "forms": 1,
    "methods": 1,
    "allocator": 1,
    "files": 1,
    "interop": 3,
    "core": 2,
    "runs": 2,
    "data": 3,
    "retrieval": 3,
    "model": 4,
    "generation": 3,
    "training": 5,
    "inference": 6,
    "tuning": 6,
    "evidence": 7,
    "app": 8,
    "__main__": 9,
}
CORE_MAY_IMPORT = {"torch", "jaxtyping", "triton", NAME} | set(sys.stdlib_module_names)  # torch brings triton


def modules() -> Iterator[tuple[Path, str]]:
    """Every source file but the package's own __init__, with the name of its floor."""
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if inside.parts != ("__init__.py",):
            yield path, inside.parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, anywhere in it."""
    package = [NAME, *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def test_every_part_of_the_package_has_a_floor() -> None:
    assert {floor for _, floor in modules()} <= set(FLOORS)


def test_imports_point_downwards() -> None:
    upward = []
    for path, floor in modules():
        for line, name in imports(path):
            parts = name.split(".")
            if parts[0] != NAME or parts[1] in (floor, "__version__"):
                continue
            if parts[1] not in FLOORS or FLOORS[parts[1]] >= FLOORS[floor]:
                upward.append(f"{path.relative_to(PACKAGE)}:{line} imports {name}")
    assert not upward


def test_no_file_imports_itself_through_others() -> None:
    """Under TYPE_CHECKING neither: files that name each other are read together, whenever they are loaded."""
    names = {_module_name(path): path for path, _ in modules()}
    imported = {
        name: {full if full in names else full.rpartition(".")[0] for _, full in imports(path)} & names.keys()
        for name, path in names.items()
    }
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"these files import each other in a circle: {' <- '.join(error.args[1])}")


def _module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join([NAME, *(part for part in parts if part != "__init__")])


def test_the_mathematics_imports_torch_and_jaxtyping_only() -> None:
    foreign = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path, floor in modules()
        if floor in ("core", "errors", "checks", "forms", "methods", "generation")
        for line, name in imports(path)
        if name.split(".")[0] not in CORE_MAY_IMPORT
    ]
    assert not foreign


def test_the_package_imports_what_it_declares() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [texts for extra, texts in project["optional-dependencies"].items() if extra not in ("test", "docs")]
    texts = itertools.chain(project["dependencies"], *extras)
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    declared |= {"markupsafe", "starlette", "pydantic"}  # parts of what jinja2 and fastapi promise
    declared |= {"sqlalchemy"}  # whose errors Optuna's storage passes on
    declared |= {"triton"}  # part of torch's builds for Linux; without it the search runs in torch
    distributions = packages_distributions()
    undeclared = [
        f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        for path, _ in modules()
        for line, name in imports(path)
        if (top := name.partition(".")[0]) not in {NAME, "_typeshed", *sys.stdlib_module_names}
        and not {canonicalize_name(one) for one in distributions.get(top, [top])} & declared
    ]
    assert not undeclared


def loaded_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())


HEAVY = {
    "scipy",
    "tqdm",
    "yaml",
    "jsonargparse",
    "torch",
    "torchvision",
    "numpy",
    "sklearn",
    "matplotlib",
    "PIL",
    "timm",
    "jaxtyping",
    "safetensors",
    "tensorboard",
    "faiss",
    "psycopg",
    "fastapi",
    "starlette",
    "uvicorn",
    "onnxruntime",
    "onnx",
    "pyarrow",
    "jinja2",
    "optuna",
    "sqlalchemy",
}


@pytest.mark.parametrize(
    "statement",
    [f"import {NAME}", f"import {NAME} as e; dir(e); e.__all__", f"import {NAME}.errors"],
)
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    assert not loaded_after(statement) & HEAVY


def test_the_mathematics_loads_nothing_of_ours_above_it() -> None:
    program = (
        f"import {NAME}.core.losses, {NAME}.core.distributed, sys\n"
        f"print(*[m for m in sys.modules if m.startswith('{NAME}.')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert {name.split(".")[1] for name in run.stdout.split()} - {"checks", "forms"} == {"core", "errors"}


STUBS = [PACKAGE / "__init__.pyi", PACKAGE / "retrieval" / "rerank" / "__init__.pyi"]


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_a_stub_and_its_package_have_the_same_names(stub: Path) -> None:
    package = importlib.import_module(".".join([NAME, *stub.parent.relative_to(PACKAGE).parts]))
    _, *statements = ast.parse(stub.read_text(encoding="utf-8")).body
    listed = []
    for node in statements:
        if isinstance(node, ast.ImportFrom):
            defining = importlib.import_module(f"{package.__name__}.{node.module}")
            for alias in node.names:
                assert alias.asname == alias.name, "only `name as name` is a public name to a type checker"
                assert getattr(package, alias.name) is getattr(defining, alias.name)
                listed.append(alias.name)
        else:
            assert isinstance(node, ast.AnnAssign), "types are those of the modules: a stub imports and states none"
            assert isinstance(node.target, ast.Name)
            assert type(getattr(package, node.target.id)).__name__ == ast.unparse(node.annotation)
            listed.append(node.target.id)
    assert sorted(package.__all__) == sorted(listed)
    assert set(package.__all__) <= set(dir(package))


def test_every_package_that_loads_names_late_has_a_tested_stub() -> None:
    assert sorted(PACKAGE.rglob("*.pyi")) == sorted(STUBS)


def test_a_misspelt_name_is_an_attribute_error_with_a_suggestion() -> None:
    with pytest.raises(AttributeError, match="no attribute 'TripletLos'"):
        embedding_expansion.TripletLos  # noqa: B018
    program = [sys.executable, "-c", f"import {NAME}; {NAME}.TripletLos"]
    said = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False).stderr
    assert said.rstrip().endswith("Did you mean: 'TripletLoss'?")


def test_a_former_name_works_and_warns_at_the_line_that_uses_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"  # a program that no import hook of the tests has wrapped
    program.write_text(
        f"import {NAME} as e\n"
        "e._RENAMED['Former'] = 'Client'\n"
        "assert e.Former is e.Client\n"
        f"from {NAME} import Former\n"
        "assert Former is e.Client and 'Former' not in dir(e)\n"
    )
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=60)
    said = f"DeprecationWarning: {NAME}.Former is deprecated and goes with the next release: use {NAME}.Client"
    assert f"{program}:3: {said}" in run.stderr
    assert f"{program}:4: {said}" in run.stderr


def test_every_former_name_leads_to_a_public_one() -> None:
    assert set(embedding_expansion._RENAMED.values()) <= set(embedding_expansion.__all__)
    assert not set(embedding_expansion._RENAMED) & set(embedding_expansion.__all__)


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_a_call_of_a_loss_is_a_short_walk_through_the_files() -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "call_walk.py"
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120)
    walks = {
        name: (int(files), int(moves))
        for name, files, moves in re.findall(r"(\w+): (\d+) files, (\d+) moves", run.stdout)
    }
    assert walks.keys() == {"expanded", "plain"}
    bars = {"plain": (6, 12)} | ({"expanded": (8, 20)} if native.available() else {})  # torch's search is longer
    for name, (most_files, most_moves) in bars.items():
        files, moves = walks[name]
        assert 0 < files <= most_files, run.stdout
        assert 0 < moves <= most_moves, run.stdout
