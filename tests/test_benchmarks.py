"""The benchmarks run: each script in its quick form, so that none goes stale between two measurements."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
#: They measure a process, or start others. The rest runs in this one, which has loaded the libraries already.
ALONE = {"balance.py", "explicit.py", "speed.py", "memory.py", "retrieval.py", "index.py", "load.py", "bad_uploads.py"}
ALONE |= {"opening.py"}


@pytest.mark.parametrize("script", QUICK)
def test_a_benchmark_prints_its_table_and_writes_its_figures(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    arguments = [script, "--quick", "--out", str(out), *QUICK[script]]
    printed = in_a_process(arguments) if script in ALONE else in_this_process(arguments, monkeypatch, capsys)
    assert "| --- |" in printed
    assert "Error" not in printed
    assert "versions" in json.loads(out.read_text())["machine"]


def in_a_process(arguments: list[str]) -> str:
    ran = subprocess.run([sys.executable, *arguments], cwd=BENCHMARKS, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def in_this_process(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(BENCHMARKS)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", arguments)
    threads = torch.get_num_threads()
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    return capsys.readouterr().out


def test_every_benchmark_is_run_here_or_trains_for_hours() -> None:
    shared = {"bars.py", "contenders.py", "harness.py", "limits.py"}
    found = {path.name for path in BENCHMARKS.glob("*.py")} - shared
    # tests/app/test_evaluate_rerank.py, where a trained run is, and tests/test_architecture.py
    elsewhere = {"post_processing.py", "call_walk.py"}
    assert found - QUICK.keys() - elsewhere <= {"compare_losses.py", "noisy_glyphs.py"}
