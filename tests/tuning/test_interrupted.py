"""A study goes on after any interruption as if nothing had been, and two processes share it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.training import loop
from embedding_expansion.tuning import trial
from embedding_expansion.tuning.study import Study

from .conftest import TRIALS, command
from .study_files import stored, untimed

TWO = ["none", "paper"]  # arms; the results of one do not depend on the others
OF_TWO = ["--arms", *TWO]

# Ends the process at its 7th checkpoint, in the second trial.
ENDED = """
import os, signal, sys
from embedding_expansion.app.cli import main
from embedding_expansion.training import loop
saved, save = [], loop._save
def ending(*given):
    save(*given)
    saved.append(1)
    if len(saved) == 7:
        os.kill(os.getpid(), signal.{name})
loop._save = ending
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_study_that_was_ended_goes_on_from_the_last_checkpoint(
    name: str, study: Path, unreadable: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study"
    program = [sys.executable, "-c", ENDED.format(name=name), *command(unreadable, out), *OF_TWO]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=120)
    if name == "SIGKILL":
        assert ended.returncode == -signal.SIGKILL
    else:
        assert ended.returncode == 128 + signal.SIGTERM
        assert ended.stdout.endswith("stopped after saving; the same command goes on\n")
    assert set(stored(out)) == {("none", 0)}
    whole, begun = out / "trials" / "none-000", out / "trials" / "paper-000"
    before = (whole / "metrics.json").stat().st_mtime_ns
    assert not (begun / "metrics.json").exists()
    assert main([*command(unreadable, out), *OF_TWO]) == 0
    assert (whole / "metrics.json").stat().st_mtime_ns == before
    (resumed,) = json.loads((begun / "environment.json").read_text())["resumed"]
    assert resumed["after_step"] == 3
    assert untimed(out, TWO) == untimed(study, TWO)
    for arm in TWO:
        assert (out / "best" / f"{arm}.yaml").read_text() == (study / "best" / f"{arm}.yaml").read_text()


class Interrupted(BaseException):
    """As a kill, but of the function only."""


@pytest.mark.parametrize("moment", ["asked", "run", "noted", "whole"])
def test_a_study_goes_on_from_any_moment(
    moment: str, study: Path, unreadable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, count = tmp_path / "study", 0

    def interrupt(*given: object, **named: object) -> object:
        nonlocal count
        count += 1
        if count == 3:
            raise Interrupted
        return original(*given, **named)

    places = {
        "asked": ("optuna.trial.Trial.set_user_attr", None),  # values are stored, but not the number
        "run": (loop, "run_steps"),
        "noted": ("optuna.study.Study.tell", None),  # the result is stored, but the trial is not complete
        "whole": (trial, "_curve"),  # the run is complete, but not its result
    }
    place, name = places[moment]
    with monkeypatch.context() as patch:
        if name is None:
            module, _, name = str(place).rpartition(".")
            package, _, owner = module.rpartition(".")
            place = getattr(__import__(package, fromlist=[owner]), owner)
        if moment == "run":
            from embedding_expansion.training import run as runs

            place = runs
        original = getattr(place, name)
        patch.setattr(place, name, interrupt)
        with pytest.raises(Interrupted):
            main([*command(unreadable, out), *OF_TWO])
    assert len(stored(out)) == 2
    assert main([*command(unreadable, out), *OF_TWO]) == 0
    assert untimed(out, TWO) == untimed(study, TWO)


def test_two_processes_share_a_study(study: Path, unreadable: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    program = [sys.executable, "-m", "embedding_expansion", *command(unreadable, out), *OF_TWO]
    both = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
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
    assert main([*first, "none"]) == 0  # nothing is left to do
    assert set(stored(out)) == {("none", 0)}
    assert main([*first, "paper", "none", "--trials", "2"]) == 0
    assert set(stored(out)) == {(arm, number) for arm in ("none", "paper") for number in range(2)}


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
