"""Every loss that `embex train` knows trains, plain and expanded, on a handful of glyph-sized images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from embedding_expansion.app.cli import main
from embedding_expansion.training.factory import BY_NAME

CASES = [(name, n) for name, loss in BY_NAME.items() for n in ("none", "2") if n == "none" or not loss.not_expandable]
MORE = {"margin": "--loss.learn_beta true", "triplet": "--loss.mining semihard", "recall_at_k": "--loss.ks [1,2]"}
QUICK = (
    "--steps 2 --protocol last --measure_before false --log_every 1 --threads 1 --device cpu "
    "--sampler.classes_per_batch 3 --sampler.images_per_class 2 --data.image_size 16 --data.workers 0 --model.dim 4"
)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_every_loss_trains(name: str, n: str, photographs: Path, tmp_path: Path) -> None:
    given = f"--loss {name} --expansion {n} {MORE.get(name, '')} {QUICK}".split()
    run = tmp_path / "run"
    assert main(["train", "--data", str(photographs), *given, "--out", str(run)]) == 0
    assert len((run / "log.jsonl").read_text().splitlines()) == 2
    assert json.loads((run / "metrics.json").read_text())["steps"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in load_file(run / "model.safetensors").values())
