"""Checkpoints: whole or not there, and exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from embedding_expansion.errors import RunError
from embedding_expansion.training.checkpoint import (
    checkpoint_path,
    collect,
    last_step,
    load_tensors,
    prune,
    restore,
    save_tensors,
    write_atomically,
)


def trained() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    model, loss = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Linear(2, 1)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model(torch.randn(5, 3)).square().sum() + loss(torch.randn(5, 2)).sum()).backward()
        optimizer.step()
    return model, loss, optimizer


def test_a_checkpoint_brings_back_model_loss_and_optimiser_bit_for_bit(tmp_path: Path) -> None:
    first, second = trained(), trained()
    path = checkpoint_path(tmp_path, 3)
    save_tensors(path, collect(*first), {"step": 3})
    tensors, about = load_tensors(path)
    restore(tensors, *second)
    assert about == {"step": 3}
    expected, found = collect(*first), collect(*second)
    assert expected.keys() == found.keys()
    assert any(name.startswith("optimizer.") for name in expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_writing_that_fails_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half")
        assert partial.suffix != ".safetensors"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x00" * 100])
def test_a_broken_checkpoint_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match="step-00000001"):
        load_tensors(path)


def test_pruning_keeps_the_named_steps_and_removes_what_a_kill_left(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint_path(tmp_path, step).write_bytes(b"")
    (tmp_path / "step-00000020.safetensors.partial-77").write_bytes(b"half")
    assert last_step(tmp_path) == 15
    prune(tmp_path, keep={10, 15})
    assert sorted(tmp_path.iterdir()) == [checkpoint_path(tmp_path, 10), checkpoint_path(tmp_path, 15)]
    assert last_step(tmp_path / "nowhere") is None
