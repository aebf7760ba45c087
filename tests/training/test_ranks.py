"""Two processes that train together train what one process trains on the whole batch."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from embedding_expansion.errors import DataError, InvalidInput
from embedding_expansion.training.config import (
    ExpansionConfig,
    MemoryConfig,
    MinerConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from embedding_expansion.training.finite import NotFinite, all_finite
from embedding_expansion.training.job import prepare
from embedding_expansion.training.loop import _check_share, _optimize
from embedding_expansion.training.ranks import Ranks
from embedding_expansion.training.run import train

from .conftest import arguments


def steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


PLAIN, REMEMBERING = ExpansionConfig(n="none"), MemoryConfig(size=20, start=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"name": "multi_similarity"}},
        {"loss": {"name": "proxy_anchor"}},
        {"loss": {"name": "proxy_nca"}},
        {"ema": 0.5, "warmup_head": 3},
        {"loss": {"name": "multi_similarity"}, "memory": REMEMBERING, "miner": MinerConfig("multi_similarity")},
        {"loss": {"name": "margin", "learn_beta": True}, "memory": REMEMBERING, "expansion": PLAIN, "chunk": 3},
    ],
    ids=["multi_similarity", "proxy_anchor", "proxy_nca", "average_and_warmup", "memory", "plain_memory"],
)
def test_two_processes_give_the_losses_and_weights_of_one(
    small: TrainConfig, tmp_path: Path, changes: dict[str, Any]
) -> None:
    # Batch norm is frozen: its statistics would be those of each rank's half of the batch.
    config = dataclasses.replace(
        small,
        **changes,
        model=ModelConfig(dim=8, freeze_batch_norm=True),
        optimizer=OptimizerConfig(lr=1e-3, clip_norm=1.0),
        measure_before=False,
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
    for first, second in zip(steps(one), steps(two), strict=True):
        assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
        assert second.get("validation") == first.get("validation")
    last = "checkpoints/step-00000006.safetensors"  # which has what the loss learnt and remembers
    for file, prefix in (("model.safetensors", ""), (last, "loss.")):
        expected, found = load_file(one / file), load_file(two / file)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            if name.startswith(prefix):
                assert_moved_alike(found[name].double(), tensor.double(), 1e-3)


def assert_moved_alike(found: Tensor, expected: Tensor, lr: float) -> None:
    """The same but for rounding; one weight in a thousand less so, since Adam divides by the gradient's size.

    It so makes a part of a step of the rounding of a gradient that is next to nothing.
    """
    apart = (found - expected).abs()
    assert (apart > 1e-5).double().mean() <= 1e-3
    assert apart.max() < lr / 10
    assert apart.mean() < lr / 1000


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

    def agree(self, value: int) -> int:
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
