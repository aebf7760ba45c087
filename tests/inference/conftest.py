"""A small trained run, and what was exported of it, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedding_expansion.app.cli import main
from retrieval.index.conftest import other_place, place, postgres_place, server  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 classes of 4 noisy images each, wider than high, as JPEG files."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(1)
    for number in range(8):
        pattern = rng.integers(0, 256, (30, 41, 3))
        (folder / f"class_{number}").mkdir()
        for image in range(4):
            noisy = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"class_{number}" / f"{image}.jpg")
    return folder


@pytest.fixture(scope="session")
def trained(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three steps; its images are cut from the middle."""
    run = tmp_path_factory.mktemp("runs") / "run"
    options = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 3 --threads 1 --device cpu"
    sizes = "--data.image_size 16 --data.workers 0 --data.transform crop_flip --model.dim 6 --model.pooling gem"
    given = ["--data", str(photographs), *options.split(), *sizes.split(), "--out", str(run)]
    assert main(["train", *given]) == 0
    return run


@pytest.fixture(scope="session")
def exports(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export in each format, by the name of the format."""
    folder = tmp_path_factory.mktemp("exports")
    for kind in ("onnx", "torch", "safetensors"):
        assert main(["export", str(trained), "--format", kind, "--out", str(folder / kind)]) == 0
    return folder


@pytest.fixture(scope="session")
def files(photographs: Path) -> list[Path]:
    """All 32 image files."""
    return sorted(photographs.rglob("*.jpg"))
