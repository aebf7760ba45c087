"""A small data set whose test images are no images, and a study of three arms on it that nothing has interrupted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedding_expansion.app.cli import main

ARMS = ["none", "paper", "anchor"]
TRIALS = 2
CLASSES = 16  # the first half trains
OPTIONS = """
--loss triplet --data.image_size 16 --data.workers 0 --model.dim 8 --sampler.classes_per_batch 4
--sampler.images_per_class 2 --steps 4 --eval_every 2 --checkpoint_every 1 --device cpu --threads 1
""".split()  # noqa: SIM905


def is_test_class(folder: Path) -> bool:
    return int(folder.name.rpartition("_")[2]) >= CLASSES // 2


def draw_images(root: Path, *, of_test_classes: bool) -> None:
    """4 noisy images of every training or test class, each class with a pattern of its own."""
    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        folder = root / f"class_{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        pattern = rng.integers(0, 256, (16, 16, 3))
        for image in range(4):
            noisy = np.clip(pattern + rng.normal(0, 60, pattern.shape), 0, 255).astype(np.uint8)
            if is_test_class(folder) == of_test_classes:
                Image.fromarray(noisy).save(folder / f"{image}.png")


@pytest.fixture(scope="session")
def unreadable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 training classes, and 8 test classes of files that cannot be read as images."""
    root = tmp_path_factory.mktemp("unreadable")
    draw_images(root, of_test_classes=False)
    for folder in filter(is_test_class, root.iterdir()):
        for image in range(4):
            (folder / f"{image}.png").write_bytes(b"no image")
    return root


def command(data: Path, out: Path) -> list[str]:
    """The command of the study. Later options override it."""
    return ["tune", "--data", str(data), *OPTIONS, "--arms", *ARMS, "--trials", str(TRIALS), "--out", str(out)]


@pytest.fixture(scope="session")
def study(unreadable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study."""
    out = tmp_path_factory.mktemp("studies") / "study"
    assert main(command(unreadable, out)) == 0
    return out
