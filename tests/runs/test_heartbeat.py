"""A long task says every 30 seconds how far it is, unless something else is printed or there is a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from embedding_expansion.app.loading import progress_bar
from embedding_expansion.runs import heartbeat
from embedding_expansion.runs.heartbeat import Heartbeat
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.journal import Journal


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_is_due_every_30_seconds_of_silence() -> None:
    clock = Clock()
    beat, due = Heartbeat(shown=True, clock=clock), list[float]()
    for second in range(1, 121):
        clock.now = 100.0 + second
        if second == 40:
            beat.rest()
        if beat.is_due():
            due.append(second)
    assert due == [30, 70, 100]
    assert beat.seconds == 120


@pytest.mark.parametrize("is_terminal", [True, False])
def test_on_a_terminal_nothing_is_due(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    clock = Clock()
    beat = Heartbeat(clock=clock)
    clock.now += 31
    assert beat.is_due() is not is_terminal


def test_a_load_says_how_many_images_are_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.0)
    with progress_bar() as progress:
        progress(1_200, 2_000)
    assert capsys.readouterr().err.startswith("1,200 of 2,000 images, 0.0 images/s")


def test_a_training_says_at_which_step_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "EVERY", 0.0)
    run = RunFolder(tmp_path / "run")
    run.tensorboard.mkdir(parents=True)
    with Journal(run, 7, 20) as journal:
        journal.count(0.25, 64, 0.5, {})
    assert "step 8 of 20: loss 0.2500, 128 images/s" in capsys.readouterr().out
