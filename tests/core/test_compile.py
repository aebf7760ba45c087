"""torch.compile, in a process of its own, which cannot look into the run-time checks of this suite.

`test_compile_calls.py` has the other half of the checks, so that two workers share the time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CHECKS = "tests/core/compile_checks.py"
CALLS = [
    f"{CHECKS}::{name}"
    for name in (
        "test_options_of_the_call_compile",
        "test_a_batch_without_anchors_is_0_when_compiled_as_well",
        "test_the_default_compiler_takes_it",
        "test_a_compiled_loss_takes_batches_of_other_classes_and_sizes",
    )
]
# As docs/integrations.md says: before 2.13 torch breaks the graph at operators whose results vary in size.
LOWEST = 2, 13
needs_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < LOWEST, reason="no fullgraph before torch 2.13"
)


def check(*arguments: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-10000:] + result.stderr[-2000:]


@needs_torch
def test_every_function_and_module_compiles_without_graph_breaks() -> None:
    check(CHECKS, *(f"--deselect={call}" for call in CALLS))
