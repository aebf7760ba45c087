"""A small data set on disk, and the settings with which a run on it takes seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from embedding_expansion.model.backbones import conv4
from embedding_expansion.runs.options import DataConfig, ExpansionConfig, ModelConfig, SamplerConfig, TrainConfig


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 classes of 6 noisy images, 24 x 20 pixels, each class with a pattern of its own."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(12):
        pattern = rng.integers(0, 256, (24, 20, 3))
        (folder / f"class_{number:02d}").mkdir()
        for image in range(6):
            noisy = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"class_{number:02d}" / f"{image}.png")
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of conv4 with statistics of batch norm that are not those of a new network."""
    torch.manual_seed(7)
    trunk = conv4(3)
    trunk.train()
    trunk(torch.randn(8, 3, 32, 32))
    save_file(trunk.state_dict(), tmp_path / "conv4.safetensors")
    return tmp_path / "conv4.safetensors"


@pytest.fixture
def small(photographs: Path, tmp_path: Path) -> TrainConfig:
    """6 steps on one thread; the first six classes train."""
    return small_config(photographs, tmp_path / "run")


def small_config(photographs: Path, out: Path) -> TrainConfig:
    """That configuration, for fixtures of a wider scope as well."""
    return TrainConfig(
        data=DataConfig(name=str(photographs), image_size=16, workers=0),
        sampler=SamplerConfig(classes_per_batch=4, images_per_class=2),
        model=ModelConfig(dim=8),
        expansion=ExpansionConfig(n=2),
        validation_share=0.1,  # the least, 2 classes: 4 are left
        steps=6,
        eval_every=2,
        checkpoint_every=3,
        log_every=1,
        threads=1,
        device="cpu",
        out=str(out),
    )


def arguments(config: TrainConfig) -> list[str]:
    """The configuration as command line options."""
    options = []
    for name, value in dataclasses.asdict(config).items():
        entries = (
            {f"{name}.{inner}": given for inner, given in value.items()} if isinstance(value, dict) else {name: value}
        )
        options += [
            f"--{option}={given}".lower() if isinstance(given, bool) else f"--{option}={given}"
            for option, given in entries.items()
            if given is not None
        ]
    return options
