"""The benchmarks run: each script in its quick form, so that none goes stale between two measurements."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
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
    "photographs.py": [],
    "clustering.py": ["--methods", "k-means, known k", "Louvain, mutual"],
    "prepared.py": ["--workers", "0"],
    "gallery_thresholds.py": [],
    "allocator.py": [],
}


#: Reads a command a line, runs it in a fork, and answers with its exit status: the libraries are imported only once.
RUNNER = """
import json, os, runpy, sys, traceback
import pytorch_metric_learning.losses, torch, torchvision
sys.path.insert(0, os.getcwd())
for line in sys.stdin:
    script, *arguments, log = json.loads(line)
    child = os.fork()
    if child == 0:
        opened = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, 1)
        os.dup2(opened, 2)
        sys.argv = [script, *arguments]
        status = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            status = 0 if ended.code in (None, 0) else 1
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def runner() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER], cwd=BENCHMARKS, stdin=pipe, stdout=pipe, text=True
    ) as started:
        yield started
        assert started.stdin is not None
        started.stdin.close()


@pytest.mark.parametrize("script", QUICK)
def test_a_benchmark_prints_its_table_and_writes_its_figures(
    script: str, runner: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert runner.stdin is not None
    assert runner.stdout is not None
    out, log = tmp_path / "figures.json", tmp_path / "log"
    runner.stdin.write(json.dumps([script, "--quick", "--out", str(out), *QUICK[script], str(log)]) + "\n")
    runner.stdin.flush()
    status, said = runner.stdout.readline(), log.read_text()
    assert status == "0\n", said[-2000:]
    assert "| --- |" in said
    assert "Error" not in said
    assert "versions" in json.loads(out.read_text())["machine"]


def test_every_benchmark_is_run_here_or_trains_for_hours() -> None:
    shared = {"bars.py", "contenders.py", "harness.py", "limits.py"}
    found = {path.name for path in BENCHMARKS.glob("*.py")} - shared
    # tests/app/test_evaluate_rerank.py, where a trained run is, and tests/test_architecture.py
    elsewhere = {"post_processing.py", "call_walk.py"}
    assert found - QUICK.keys() - elsewhere <= {"compare_losses.py", "noisy_glyphs.py"}
