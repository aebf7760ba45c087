"""The benchmarks run: each script in its quick form, so that none goes stale between two measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUICK = {
    "speed.py": ["--losses", "multi_similarity, mined", "--parts", "losses", "points"],
    "explicit.py": [],
    "memory.py": [],
    "step.py": ["--losses", "triplet"],
    "operations.py": [],
    "balance.py": [],
    "gpu.py": ["--device", "cpu"],
    "gpu_retrieval.py": ["--device", "cpu"],
    "cross_batch.py": [],
    "retrieval.py": [],
    "index.py": [],
    "load.py": [],
    "bad_uploads.py": [],
    "opening.py": [],
}


@pytest.mark.parametrize("script", QUICK)
def test_a_benchmark_prints_its_table_and_writes_its_figures(script: str, tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, script, "--quick", "--out", str(out), *QUICK[script]]
    ran = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "| --- |" in ran.stdout
    assert "Error" not in ran.stdout
    assert "versions" in json.loads(out.read_text())["machine"]


def test_every_benchmark_is_run_here_or_trains_for_hours() -> None:
    shared = {"bars.py", "contenders.py", "harness.py", "limits.py"}
    found = {path.name for path in BENCHMARKS.glob("*.py")} - shared
    # tests/app/test_evaluate_rerank.py, where a trained run is, and tests/test_architecture.py
    elsewhere = {"post_processing.py", "call_walk.py"}
    assert found - QUICK.keys() - elsewhere <= {"compare_losses.py", "noisy_glyphs.py"}
