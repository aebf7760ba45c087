"""What a line of log.jsonl says of the steps since the line before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from embedding_expansion.runs.options import TrainConfig
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.journal import Journal


def statistics(**figures: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in figures.items()}


BALANCED = {"pull": 2.0, "push": 0.5, "plain_pull": 1.0, "plain_push": 3.0}


def test_the_balance_is_a_group_and_counts_the_steps_without_push(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create(TrainConfig())
    with Journal(run, 0, 4) as journal:
        for step, no_push in enumerate((1.0, 0.0, 0.0, 1.0), start=1):
            figures = statistics(active_share=0.25, balance=step / 8, no_push=no_push, **BALANCED)
            journal.count(1.5, 8, 0.5, figures, waited=0.125 if step > 2 else 0.0)
        figures = journal.figures()
        assert figures == {
            "active_share": 0.25,
            "balance": {"share": 0.5, **BALANCED, "no_push": 0.5},
            "images_per_second": 16.0,
            "waiting_share": 0.125,
        }
        journal.count(1.5, 8, 0.5, statistics(balance=1.0, no_push=0.0))
        assert journal.figures() == {
            "balance": {"share": 1.0, "no_push": 0.0},
            "images_per_second": 16.0,
            "waiting_share": 0.0,
        }
        journal.write({"step": 4, "loss": 1.5, "warning": "words", **figures})
    run.release()
    (line,) = (run.path / "log.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 4, "loss": 1.5, "warning": "words", **figures}
    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "loss",
        "active_share",
        "images_per_second",
        "waiting_share",
        *(f"balance/{name}" for name in ("share", *BALANCED, "no_push")),
    }


def test_without_balance_the_figures_are_those_of_the_loss(tmp_path: Path) -> None:
    with Journal(None, 0, 1) as journal:
        journal.count(1.5, 8, 0.5, statistics(active_share=0.25))
        speed = {"images_per_second": pytest.approx(16.0), "waiting_share": 0.0}
        assert journal.figures() == {"active_share": 0.25, **speed}
