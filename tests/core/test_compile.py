"""torch.compile, in a process of its own, which cannot look into the run-time checks of this suite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# As docs/integrations.md says: before 2.13 torch breaks the graph at operators whose results vary in size.
LOWEST = 2, 13


@pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < LOWEST, reason="no fullgraph before torch 2.13")
def test_every_function_module_and_option_compiles_without_graph_breaks() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "tests/core/compile_checks.py"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-10000:] + result.stderr[-2000:]
