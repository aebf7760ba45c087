"""Several processes that train together train what one process trains on the whole batch.

All cases run in one group of processes, since starting a process is what takes the time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from embedding_expansion.core.losses import LOSSES, PROXY_LOSSES
from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.model.network import NotFinite, all_finite
from embedding_expansion.runs.options import (
    ExpansionConfig,
    MemoryConfig,
    MinerConfig,
    ModelConfig,
    OptimizerConfig,
    SamplerConfig,
    TrainConfig,
)
from embedding_expansion.training.job import prepare
from embedding_expansion.training.loop import _check_share, _optimize
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.run import train
from ranks import results_of_ranks

from .conftest import arguments, small_config
from .exactly import assert_equal, trained

STEPS = 3


@dataclass(frozen=True)
class Case:
    """A loss of the registry, and what is around it."""

    loss: str
    expanded: bool
    memory: bool = False
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        kind = "expanded" if self.expanded else "plain"
        return "-".join([self.loss, kind, *(["memory"] if self.memory else []), *self.changes])

    def config(self, small: TrainConfig) -> TrainConfig:
        """Batch norm is frozen: its statistics would be those of each rank's part of the batch."""
        settings: dict[str, Any] = {
            "loss": {"name": self.loss},
            "sampler": SamplerConfig(classes_per_batch=4, images_per_class=3),
            "model": ModelConfig(dim=8, freeze_batch_norm=True),
        }
        if not self.expanded:
            settings["expansion"] = ExpansionConfig(n="none")
        if self.memory:
            settings["memory"] = MemoryConfig(size=20, start=1)
        return dataclasses.replace(small, **settings | self.changes)


def cases() -> Iterator[Case]:
    for name, loss in {**LOSSES, **PROXY_LOSSES}.items():
        for expanded in (False, *([] if loss.not_expandable else [True])):
            yield Case(name, expanded)
            if name in LOSSES:
                yield Case(name, expanded, memory=True)
    yield Case("margin", expanded=False, memory=True, changes={"loss": {"name": "margin", "learn_beta": True}})
    yield Case("multi_similarity", expanded=True, memory=True, changes={"miner": MinerConfig("multi_similarity")})
    yield Case("multi_similarity", expanded=True, changes={"chunk": 2})
    yield Case("multi_similarity", expanded=True, changes={"warmup_head": 2})
    yield Case("multi_similarity", expanded=True, changes={"optimizer": OptimizerConfig(clip_norm=0.1)})


CASES = {2: list(cases()), 3: [case for case in cases() if case.loss in ("multi_similarity", "proxy_anchor")]}


def work(rank: int, world: int, config: TrainConfig) -> dict[str, dict[str, Tensor]]:
    return {str(case): trained(case.config(config), Ranks(rank, world)) for case in CASES[world]}


@pytest.fixture(scope="module")
def together(
    photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, list[dict[str, dict[str, Tensor]]]]:
    """What each rank of groups of two and of three processes has found, by case."""
    found = {}
    for world in CASES:
        folder = tmp_path_factory.mktemp("together")
        config = dataclasses.replace(small_config(photographs, folder), steps=STEPS)
        found[world] = results_of_ranks(world, folder, work, world, config)
    return found


@pytest.fixture(scope="module")
def alone(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    config = dataclasses.replace(small_config(photographs, tmp_path_factory.getbasetemp()), steps=STEPS)
    return {str(case): trained(case.config(config)) for case in CASES[2]}


@pytest.mark.parametrize(("world", "case"), [(world, case) for world in CASES for case in CASES[world]], ids=str)
def test_processes_give_the_gradients_and_weights_of_one(
    together: dict[int, list[dict[str, dict[str, Tensor]]]],
    alone: dict[str, dict[str, Tensor]],
    world: int,
    case: Case,
) -> None:
    for rank in together[world]:
        assert_equal(rank[str(case)], alone[str(case)])


def test_torchrun_writes_one_run_and_says_everything_once(small: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(
        small,
        model=ModelConfig(dim=8, freeze_batch_norm=True),
        ema=0.5,
        measure_before=False,
        memory=MemoryConfig(size=20, start=1),
    )
    one = train(dataclasses.replace(config, out=str(tmp_path / "one"))).run
    two = tmp_path / "two"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, "-m", "embedding_expansion", "train", *arguments(dataclasses.replace(config, out=str(two)))]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("2 processes") == finished.stdout.count("run folder") == 1
    first, second = steps(one), steps(two)
    assert [entry["step"] for entry in first] == [entry["step"] for entry in second]
    assert second[1]["loss"] == pytest.approx(first[1]["loss"], rel=1e-4)  # before Adam has moved anything
    last = "checkpoints/step-00000006.safetensors"  # which has what the loss remembers
    for file in ("model.safetensors", last):
        assert load_file(one / file).keys() == load_file(two / file).keys()


def steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_each_rank_takes_its_rows_and_an_uneven_batch_is_refused() -> None:
    rows = list(range(12))
    assert [row for rank in range(3) for row in rows[Ranks(rank, 3).share(12)]] == rows
    assert Ranks().share(7) == slice(0, 7)
    with pytest.raises(InvalidInput, match="cannot be divided by 3"):
        Ranks(0, 3).share(8)


@dataclasses.dataclass(frozen=True)
class TwoRanks(Ranks):
    """The first of two ranks in one process; the other one answers every question with `other`."""

    other: int = 0

    def maximum(self, value: int) -> int:
        return max(value, self.other)

    def gather(self, value: Any) -> list[Any]:
        return [value, {Path("elsewhere.png"): "broken there"}]


def test_a_rank_stops_before_its_weights_move_when_the_other_one_has_diverged(small: TrainConfig) -> None:
    job = prepare(small)
    before = [parameter.detach().clone() for parameter in job.model.parameters()]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    inputs, labels = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8), torch.arange(8) // 2
    with pytest.raises(NotFinite):
        _optimize(job, job.model, job.loss, scaler, TwoRanks(0, 2, other=1), inputs, labels)
    assert all(torch.equal(x, y) for x, y in zip(before, job.model.parameters(), strict=True))
    assert _optimize(job, job.model, job.loss, scaler, TwoRanks(0, 2), inputs, labels) > 0


def test_ranks_refuse_a_batch_that_broken_images_made_uneven_and_name_those_of_all(small: TrainConfig) -> None:
    job, share = prepare(small), slice(0, 4)
    job.broken = {Path("here.png"): "broken here"}
    with pytest.raises(DataError, match=r"2 processes.*here\.png, elsewhere\.png"):
        _check_share(2, share, job, TwoRanks(0, 2))
    _check_share(4, share, job, TwoRanks(0, 2))
    _check_share(2, share, job, Ranks())


def test_all_tensors_are_looked_at_and_whole_numbers_are_always_finite() -> None:
    good = [torch.ones(3), torch.zeros(2, dtype=torch.float64), torch.tensor(5)]
    assert all_finite(good)
    assert all_finite([])
    for bad in (torch.nan, torch.inf, -torch.inf):
        assert not all_finite([*good, torch.tensor([1.0, bad])])
