"""One writer a run folder, whatever became of the one before; and what a kill leaves is finished or cleared."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.errors import RunError
from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_lock import RunLock, writing_into
from embedding_expansion.training.run import resume, train

from .conftest import arguments

EMBEX = [sys.executable, "-m", "embedding_expansion"]


def children(process: int) -> list[int]:
    return [int(name) for name in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not any(path.parent.glob(path.name)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_has_one_writer_and_a_killed_one_leaves_it_free(
    small: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    data = dataclasses.replace(small.data, workers=1)
    long = dataclasses.replace(small, data=data, out=str(run), steps=3000, eval_every=3000, measure_before=False)
    writer = subprocess.Popen([*EMBEX, "train", *arguments(long)], stdout=subprocess.PIPE, text=True)
    try:
        wait_for(run / "log.jsonl", writer)
        held = f"embex: {run} is being written by process {writer.pid} on "
        for given in (["--resume", str(run)], arguments(small)):
            assert main(["train", *given]) == 2
            said = capsys.readouterr()
            assert said.err.startswith(held)
            assert (said.out, said.err.count("\n")) == ("", 1)
        assert main(["report", str(run)]) == 2
        assert capsys.readouterr().err.startswith(held)
        assert main(["report", str(run), "--out", str(tmp_path / "elsewhere.html")]) == 0
        wait_for(run / "checkpoints" / "step-*.safetensors", writer)
        loading = children(writer.pid)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        assert any(Path(f"/proc/{worker}").exists() for worker in loading)  # what loads images ends seconds later
        with RunLock(run):
            pass
    finally:
        writer.kill()
        writer.communicate()
    (run / "log.jsonl.partial-1").write_text("half")
    (run / "checkpoints" / "step-00000099.safetensors.partial-1").write_text("half")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("steps: 3000", "steps: 6"))
    assert resume(run, changed=True).metrics is not None
    assert not list(run.rglob("*.partial-*"))


def test_a_lock_holds_within_a_process_and_is_let_go_of(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with writing_into(tmp_path / "file"), RunLock(tmp_path):  # no run folder before it has a lock
        with pytest.raises(RunError, match=rf"written by process {os.getpid()} on .*; wait until"), RunLock(tmp_path):
            pass
        with pytest.raises(RunError, match="or pass another --out"), writing_into(tmp_path / "report.html"):
            pass
    with RunLock(tmp_path):
        (tmp_path / "lock").write_text("{")
        with pytest.raises(RunError, match="by another process;"), RunLock(tmp_path):
            pass
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("left", [["lock"], ["lock", "config.yaml.partial-7"], ["lock", "checkpoints/"]])
def test_a_run_that_was_killed_before_its_configuration_was_written_can_be_started_again(
    small: TrainConfig, left: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(str(small.out))
    run.mkdir()
    for name in left:
        (run / name).mkdir() if name.endswith("/") else (run / name).write_text("steps: 1")
    assert main(["train", "--resume", str(run)]) == 2
    assert f"start the run again, if you like with --out {run}" in capsys.readouterr().err
    assert train(dataclasses.replace(small, measure_before=False, steps=1)).metrics is not None
    assert not list(run.rglob("*.partial-*"))


def test_a_run_that_was_killed_between_its_files_is_finished(small: TrainConfig) -> None:
    short = dataclasses.replace(small, measure_before=False, steps=2)
    run = train(short).run
    weights = (run / "model.safetensors").read_bytes()
    files = ["environment.json", "fingerprint.json", "log.jsonl", "model.safetensors", "metrics.json"]
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    for name in files:
        (run / name).unlink()
    assert resume(run).metrics is not None  # nothing but config.yaml was there
    assert (run / "model.safetensors").read_bytes() == weights
    assert {"versions", "resumed"} <= json.loads((run / "environment.json").read_text()).keys()
    (run / "model.safetensors").unlink()  # complete by metrics.json, but without its weights
    assert resume(run).metrics is not None
    assert (run / "model.safetensors").read_bytes() == weights


def test_a_run_that_was_killed_before_its_report_gets_it(small: TrainConfig) -> None:
    run = train(dataclasses.replace(small, measure_before=False, steps=2)).run
    assert not (run / "report.html").exists()
    assert main(["train", "--resume", str(run)]) == 0
    report = (run / "report.html").read_bytes()
    (run / "report.html").write_text("mine")
    assert main(["train", "--resume", str(run)]) == 0
    assert (run / "report.html").read_text() == "mine"
    assert report.startswith(b"<!DOCTYPE html>")


def test_equal_runs_have_equal_weights_byte_for_byte(small: TrainConfig, tmp_path: Path) -> None:
    short = dataclasses.replace(small, measure_before=False, steps=2)
    files = {
        (train(dataclasses.replace(short, out=str(tmp_path / str(number)))).run / "model.safetensors").read_bytes()
        for number in range(2)
    }
    assert len(files) == 1
