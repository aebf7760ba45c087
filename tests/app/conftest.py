"""One small trained run, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedding_expansion.app.cli import main


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 classes of 4 noisy images each."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)
    for number in range(8):
        pattern = rng.integers(0, 256, (20, 20, 3))
        (folder / f"class_{number}").mkdir()
        for image in range(4):
            noisy = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"class_{number}" / f"{image}.png")
    return folder


@pytest.fixture(scope="session")
def trained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps."""
    run = tmp_path_factory.mktemp("runs") / "run"
    options = (
        "--expansion 2 --sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 3 --threads 1 --device cpu"
    )
    sizes = "--data.image_size 16 --data.workers 0 --model.dim 6"
    given = ["--data", str(photographs), *options.split(), *sizes.split(), "--out", str(run)]
    assert main(["train", *given]) == 0
    return run
