"""A run that expansion makes collapse says so once, while it runs; others do not."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from embedding_expansion.core.expanded_loss import EmbeddingExpansion
from embedding_expansion.core.losses import LOSSES, NPairLoss, SupConLoss, TripletLoss
from embedding_expansion.core.memory import CrossBatchMemory
from embedding_expansion.core.pair_loss import PairLoss
from embedding_expansion.runs.options import (
    DataConfig,
    ExpansionConfig,
    MemoryConfig,
    ModelConfig,
    SamplerConfig,
    TrainConfig,
)
from embedding_expansion.runs.run_folder import RunFolder
from embedding_expansion.training.collapse import STEPS, CollapseWatch, value_of_coinciding_points
from embedding_expansion.training.factory import make_loss
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.run import train

LABELS = torch.arange(12) // 3


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def glyphs(out: Path, loss: str, expansion: ExpansionConfig, steps: int) -> TrainConfig:
    """Letters of 16 pixels and a small network, with the optimiser of docs/results.md."""
    return TrainConfig(
        data=DataConfig(image_size=16),
        model=ModelConfig(dim=32),
        sampler=SamplerConfig(classes_per_batch=8, images_per_class=4),
        loss={"name": loss},
        expansion=expansion,
        steps=steps,
        checkpoint_every=1000,
        protocol="last",
        measure_before=False,
        threads=1,
        device="cpu",
        out=str(out),
    )


def test_a_run_that_collapses_warns_once_in_the_log_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(glyphs(tmp_path / "run", "triplet", ExpansionConfig(form="paper"), 100))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("warning")]
    (entry,) = [entry for entry in log(tmp_path / "run") if "warning" in entry]
    assert f"step {entry['step']}" in line
    assert STEPS <= entry["step"] <= 100
    assert entry["warning"] in line
    assert "stayed at 1.4, its value when all embeddings coincide" in line  # 7 hinges of the margin
    assert "--expansion.form balanced_negative, or --expansion none" in line


def test_a_run_folder_knows_whether_its_run_has_warned(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log({"step": 10, "loss": 1.0})
    run.log({"step": 20, "warning": "the held-out classes fall"})
    assert not run.has_warned("coincide")
    run.log({"step": 30, "warning": "the held-out classes fall; the embeddings coincide"})
    assert run.has_warned("coincide")


@pytest.mark.parametrize(("loss", "form"), [("triplet", "balanced"), ("contrastive", "paper")])
def test_a_run_that_learns_does_not_warn(
    loss: str, form: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(glyphs(tmp_path / "run", loss, ExpansionConfig(form=form), 60))
    assert "warning" not in capsys.readouterr().out
    entries = log(tmp_path / "run")
    assert not any("warning" in entry for entry in entries)
    shares = [entry["balance"]["share"] for entry in entries if "balance" in entry]
    assert len(shares) == (6 if form == "balanced" else 0)
    assert all(0 <= share <= 1 for share in shares)
    assert form != "balanced" or min(shares) < 1


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (TripletLoss(), 9 * 0.2),
        (EmbeddingExpansion(TripletLoss()), 3 * 0.2),
        (EmbeddingExpansion(NPairLoss()), math.log(4)),
        (SupConLoss(), math.log(11)),
    ],
)
def test_the_value_for_coinciding_points_is_that_of_the_equation(loss: PairLoss, expected: float) -> None:
    assert value_of_coinciding_points(loss, LABELS, 5) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_value_is_that_of_equal_rows_and_the_loss_stays_as_it_is(name: str) -> None:
    loss = LOSSES[name](statistics=True)
    if not loss.not_expandable:
        loss = EmbeddingExpansion(loss)
    row = torch.zeros(5)
    row[2] = 1.0
    value = value_of_coinciding_points(loss, LABELS, 5)
    assert not loss.last_statistics
    assert value == pytest.approx(loss(row.expand(12, 5), LABELS).item(), rel=1e-5, abs=1e-6)


def test_a_memory_counts_with_its_labels_and_is_not_changed() -> None:
    memory = CrossBatchMemory(SupConLoss(), embedding_size=5, size=24)
    for _ in range(2):
        memory(torch.randn(12, 5), LABELS)
    before = copy.deepcopy(memory.state_dict())
    assert value_of_coinciding_points(memory, LABELS, 5) == pytest.approx(math.log(35), rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())
    assert memory.training


def watched(
    form: Any = "paper", has_warned: bool = False, share: float = 0.95, **options: Any
) -> tuple[CollapseWatch, PairLoss]:
    """A watch over a loss whose last batch had this share of synthetic points."""
    config = TrainConfig(loss={"name": "n_pair"}, expansion=ExpansionConfig(form=form), **options)
    loss = make_loss(config, 9)
    loss.last_statistics["synthetic_share"] = torch.tensor(share)
    return CollapseWatch(loss, config, has_warned=has_warned), loss


AT = math.log(4)  # of n_pair expanded, with the four classes of LABELS


def test_the_steps_must_be_in_a_row_and_near_enough() -> None:
    watch, _ = watched()
    values = [AT * 1.015] * (STEPS - 1) + [AT * 1.03] + [AT * 0.985] * (STEPS + 20)
    warned = [step for step, value in enumerate(values) if watch.step(value, LABELS, Ranks())]
    assert warned == [2 * STEPS - 1]


def test_no_warning_without_synthetic_points_or_after_an_earlier_one() -> None:
    without_share, loss = watched()
    del loss.last_statistics["synthetic_share"]
    for watch in (without_share, watched(share=0.5)[0], watched(has_warned=True)[0]):
        assert not any(watch.step(AT, LABELS, Ranks()) for _ in range(2 * STEPS))


def test_in_negative_scope_half_of_the_points_are_all_that_can_be_synthetic() -> None:
    for share, expected in ((0.47, True), (0.4, False)):
        watch, _ = watched("negative", share=share)
        warned = [watch.step(AT, LABELS, Ranks()) for _ in range(STEPS)]
        assert any(warned) == expected


def test_losses_on_proxies_and_plain_losses_are_not_watched() -> None:
    for loss, form in (("proxy_nca", "paper"), ("n_pair", "none")):
        config = TrainConfig(loss={"name": loss}, expansion=ExpansionConfig(form=form))  # type: ignore[arg-type]
        watch = CollapseWatch(make_loss(config, 9), config, has_warned=False)
        assert not any(watch.step(AT, LABELS, Ranks()) for _ in range(2 * STEPS))
        assert watch._coinciding is None


def test_with_a_memory_the_value_is_computed_when_the_memory_is_full() -> None:
    watch, loss = watched(memory=MemoryConfig(size=24, start=1), model=ModelConfig(dim=5))
    known = []
    for _ in range(4):
        loss(torch.randn(12, 5), LABELS)
        watch.step(AT, LABELS, Ranks())
        known.append(watch._coinciding is not None)
    assert known == [False, True, True, True]
