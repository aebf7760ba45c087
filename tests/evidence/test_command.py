"""`embex reproduce evidence` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.app.reproduce import _show

RECORD = {"key": "glyphs/triplet/plain/trial/0", "values": {}, "held_out": [[300, 0.9, 0.5]], "wall_seconds": 36.0}


def results(folder: Path) -> Path:
    """A folder whose results have one run."""
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"format": 1, "choice": {}, "runs": [RECORD]}))
    return folder


def test_a_dry_run_prints_runs_and_hours_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = results(tmp_path / "evidence")
    assert main(["reproduce", "evidence", "--dry_run", "--out", str(folder)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("glyphs "))
    _, planned, left, hours = line.split()
    assert int(left) == int(planned) - 1
    assert float(hours) == round(int(left) * 36 / 3600, 1)  # by the time of the run that is done
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evidence", "results.json"]


def test_work_ends_when_the_hours_are_over_and_leaves_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evidence"
    scratch = str(tmp_path / "scratch")
    given = ["reproduce", "evidence", "--only", "glyphs", "omniglot", "--hours", "1e-9", "--scratch", scratch]
    assert main([*given, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "left out, because their folder or --weights is not given: omniglot" in printed
    assert "stopped after 1e-09 hours" in printed
    assert (out / "tables.md").exists()
    assert (out / "differences.csv").exists()


def test_runs_of_another_machine_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, out = results(tmp_path / "other"), tmp_path / "evidence"
    for expected in ("1 runs added", "0 runs added"):
        assert main(["reproduce", "evidence", "--join", str(other / "results.json"), "--out", str(out)]) == 0
        assert expected in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["runs"] == [RECORD]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--only", "glyph"], "glyphs"),
        (["--part", "3/2"], "part is 3/2"),
        (["--hours", "0"], "hours is 0"),
        (["--hours", "nan"], "--hours is 'nan'"),
        (["--join", "nowhere"], "--join names nowhere"),
        (["--choose"], "run embex reproduce evidence first"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], reason: str
) -> None:
    assert main(["reproduce", "evidence", "--out", str(tmp_path / "evidence"), *given]) == 2
    printed = capsys.readouterr().err
    assert reason in printed
    assert printed.count("\n") == 1


def test_what_to_reproduce_has_to_be_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "figure"]) == 2
    assert "evidence" in capsys.readouterr().err


def test_a_training_that_diverged_at_once_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    _show({"key": "a/b", "held_out": [], "diverged": "the loss is nan", "wall_seconds": 1.2})
    assert capsys.readouterr().out == "a/b: the loss is nan; 1 s\n"
