"""Type checkers see the public signatures: every wrong call of one file is reported, no right call of the other."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import embedding_expansion
from embedding_expansion import LOSSES, PROXY_LOSSES, CrossBatchMemory, EmbeddingExpansion, SyntheticSamples

HERE = Path(__file__).parent
RIGHT, WRONG = HERE / "right_calls.py", HERE / "wrong_calls.py"


def lines_of_mypy(folder: Path, cache: Path) -> set[tuple[str, int]]:
    """The lines with an error, as (file, line)."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(cache)]
    run = subprocess.run([*command, str(RIGHT), str(WRONG)], capture_output=True, text=True, cwd=folder, timeout=600)
    assert run.returncode in (0, 1), run.stderr
    return {(Path(name).name, int(line)) for name, line in re.findall(r"(\S+\.py):(\d+): error", run.stdout)}


def lines_of_pyright(folder: Path, _: Path) -> set[tuple[str, int]]:
    settings = {
        "include": [str(HERE)],
        "extraPaths": [str(Path(embedding_expansion.__file__).parent.parent)],
        "typeCheckingMode": "strict",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    found = json.loads(run.stdout)["generalDiagnostics"]
    errors = [one for one in found if one["severity"] == "error"]
    return {(Path(one["file"]).name, one["range"]["start"]["line"] + 1) for one in errors}


def wrong_lines() -> set[tuple[str, int]]:
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    return {(WRONG.name, number) for number, line in enumerate(lines, start=1) if line.endswith("# wrong")}


def test_every_loss_is_called_and_its_result_is_declared_a_tensor() -> None:
    """A strict checker then says if a call of one of them is not a tensor."""
    tree = ast.parse(RIGHT.read_text(encoding="utf-8"))
    values = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "value"
    ]
    called = {ast.unparse(value.func.func) for value in values if isinstance(getattr(value, "func", None), ast.Call)}
    modules = [*LOSSES.values(), *PROXY_LOSSES.values(), EmbeddingExpansion, SyntheticSamples, CrossBatchMemory]
    assert {module.__name__ for module in modules} <= called


@pytest.mark.parametrize("lines", [lines_of_mypy, lines_of_pyright], ids=["mypy", "basedpyright"])
def test_every_wrong_call_is_reported_and_no_right_one(
    lines: Callable[[Path, Path], set[tuple[str, int]]], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    cache = pytestconfig.cache.mkdir("mypy")  # stays, so that only the first run reads the types of torch

    assert len(wrong_lines()) >= 60
    found = {line for line in lines(tmp_path, cache) if line[0] in (RIGHT.name, WRONG.name)}
    assert sorted(found) == sorted(wrong_lines())
