"""A study goes on after any interruption as if nothing had been, and two processes share it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.training import loop
from embedding_expansion.tuning import trial
from embedding_expansion.tuning.study import Study
from forked import EMBEX, Forked

from .conftest import TRIALS, command
from .study_files import stored, untimed

ONE = ["none"]  # arm; its results do not depend on the others
TWO = ["none", "paper"]

# Ends the process at its 9th checkpoint, in the second trial.
KILLED = """
import os, signal, sys
from embedding_expansion.app.cli import main
from embedding_expansion.training import loop
saved, save = [], loop._save
def ending(*given):
    save(*given)
    saved.append(1)
    if len(saved) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
loop._save = ending
main(sys.argv[1:])
"""


def test_a_killed_study_goes_on_from_the_last_checkpoint(study: Path, unreadable: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    killed = Forked(KILLED, *command(unreadable, out), "--arms", *ONE)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    check_going_on(out, study, unreadable)


def test_a_study_that_is_asked_to_stop_saves_first(
    study: Path, unreadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, save, saved = tmp_path / "study", loop._save, []

    def stopping(*given: Any) -> None:
        save(*given)
        saved.append(1)
        if len(saved) == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", stopping)
        assert main([*command(unreadable, out), "--arms", *ONE]) == 128 + signal.SIGTERM
    assert capsys.readouterr().out.endswith("stopped after saving; the same command goes on\n")
    check_going_on(out, study, unreadable)


def check_going_on(out: Path, study: Path, data: Path) -> None:
    """One trial is complete, and the second one was ended early."""
    assert set(stored(out)) == {("none", 0)}
    whole, begun = out / "trials" / "none-000", out / "trials" / "none-001"
    before = (whole / "metrics.json").stat().st_mtime_ns
    assert not (begun / "metrics.json").exists()
    assert main([*command(data, out), "--arms", *ONE]) == 0
    assert (whole / "metrics.json").stat().st_mtime_ns == before
    (resumed,) = json.loads((begun / "environment.json").read_text())["resumed"]
    assert resumed["after_step"] in (2, 3)
    assert untimed(out, ONE) == untimed(study, ONE)
    for arm in ONE:
        assert (out / "best" / f"{arm}.yaml").read_text() == (study / "best" / f"{arm}.yaml").read_text()


class Interrupted(BaseException):
    """As a kill, but of the function only."""


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (optuna.trial.Trial, "set_user_attr"),  # the values of a trial are stored, but not its number
        (trial, "best_step"),  # the run is complete, but not its result
        (optuna.study.Study, "tell"),  # the result is stored, but the trial is not complete
    ],
    ids=["asked", "trained", "noted"],
)
def test_a_study_goes_on_from_any_moment(
    owner: Any, name: str, study: Path, unreadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, original, calls = tmp_path / "study", getattr(owner, name), []

    def interrupted(*given: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            raise Interrupted
        return original(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(Interrupted):
            main([*command(unreadable, out), "--arms", *ONE])
    assert len(stored(out)) == 1
    assert main([*command(unreadable, out), "--arms", *ONE]) == 0
    assert untimed(out, ONE) == untimed(study, ONE)


def test_two_processes_share_a_study(study: Path, unreadable: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    both = [Forked(EMBEX, *command(unreadable, out), "--arms", *TWO) for _ in range(2)]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    names = [line.partition(":")[0] for text, _ in said for line in text.splitlines() if ": Recall@1 " in line]
    assert sorted(names) == sorted(f"{arm}-{number:03d}" for arm in TWO for number in range(TRIALS))
    assert untimed(out, TWO) == untimed(study, TWO)
    assert sorted(path.name for path in (out / "best").iterdir()) == sorted(f"{arm}.yaml" for arm in TWO)


def test_more_trials_and_more_arms_continue_a_study(unreadable: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "study", command(unreadable, tmp_path / "study")
    first = [*given[: given.index("--arms")], "--out", str(out), "--trials", "1", "--arms"]
    assert main([*first, "none"]) == 0
    assert main([*first, "paper", "none"]) == 0
    assert set(stored(out)) == {("none", 0), ("paper", 0)}
    assert main([*first, "none", "--trials", "2"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (out / "trials").rglob("*")}
    assert main([*first, "none", "--trials", "2"]) == 0  # nothing is left to do
    assert set(stored(out)) == {("none", 0), ("paper", 0), ("none", 1)}
    assert {path: path.stat().st_mtime_ns for path in (out / "trials").rglob("*")} == before


def test_a_trial_of_a_living_process_is_left_alone(
    unreadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def claimed(study: Study) -> None:
        taken.extend([claim(study) for _ in range(4)])

    claim = Study.claim
    monkeypatch.setattr(Study, "claim", claimed)
    given = command(unreadable, tmp_path / "study")
    assert main([*given, "--trials", "1"]) == 0
    names = [None if found is None else found.name for found in taken]
    assert names == ["none-000", "paper-000", "anchor-000", None]
    taken[0].lock.close()
    monkeypatch.setattr(Study, "claim", lambda study: again.append(claim(study)))
    again: list[object] = []
    assert main([*given, "--trials", "1"]) == 0
    assert [found.name for found in again] == ["none-000"]  # type: ignore[attr-defined]
    for found in (*taken[1:3], *again):
        found.lock.close()  # type: ignore[union-attr]
