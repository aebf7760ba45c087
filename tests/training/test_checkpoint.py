"""Checkpoints: whole or not there, and exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from embedding_expansion.errors import RunError
from embedding_expansion.model.weights import load_tensors, save_tensors
from embedding_expansion.training.checkpoint import checkpoint_path, collect, prune, restore, saved_steps


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
    restore(path, tensors, *second)
    assert about == {"step": 3}
    expected, found = collect(*first), collect(*second)
    assert expected.keys() == found.keys()
    assert any(name.startswith("optimizer.") for name in expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model.0.weight": None}, "model.0.weight"),
        ({"model.0.weight": torch.zeros(4, 2)}, "model.0.weight"),
        ({"model.0.weight": torch.zeros(4, 3, dtype=torch.float16)}, "model.0.weight"),
        ({"loss.bias": None}, "loss.bias"),
        ({"optimizer.0.exp_avg": torch.zeros(2)}, "optimizer.0.exp_avg"),
        ({"optimizer.99.exp_avg": torch.zeros(2)}, "optimizer.99.exp_avg"),
        ({"stranger": torch.zeros(2)}, "stranger"),
    ],
)
def test_tensors_of_something_else_are_refused_by_name_and_change_nothing(
    change: dict[str, torch.Tensor | None], named: str, tmp_path: Path
) -> None:
    parts = trained()
    before = {name: tensor.clone() for name, tensor in collect(*parts).items()}
    given = {name: tensor for name, tensor in (collect(*trained()) | change).items() if tensor is not None}
    with pytest.raises(RunError, match=f"x.safetensors.*1 tensors.*{named}"):
        restore(tmp_path / "x.safetensors", given, *parts)
    assert all(torch.equal(tensor, before[name]) for name, tensor in collect(*parts).items())


def test_a_checkpoint_without_one_of_its_tensors_is_refused(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2), "b": torch.zeros(2)}
    save_tensors(tmp_path / "x.safetensors", tensors, {})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as stored:
        save_file({"a": tensors["a"]}, tmp_path / "y.safetensors", metadata=stored.metadata())
    with pytest.raises(RunError, match=r"y\.safetensors"):
        load_tensors(tmp_path / "y.safetensors")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x00" * 100])
def test_a_broken_checkpoint_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match="step-00000001"):
        load_tensors(path)


def test_pruning_keeps_the_newest_two_and_the_named_steps_and_removes_what_a_kill_left(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint_path(tmp_path, step).write_bytes(b"")
    (tmp_path / "step-00000025.safetensors.partial-77").write_bytes(b"half")
    (tmp_path / "step-mine.safetensors").write_bytes(b"not ours")
    assert saved_steps(tmp_path) == [5, 10, 15, 20]
    prune(tmp_path, keep={5})
    assert saved_steps(tmp_path) == [5, 15, 20]
    assert sorted(path.name for path in tmp_path.iterdir() if "00" not in path.name) == ["step-mine.safetensors"]
    assert saved_steps(tmp_path / "nowhere") == []
