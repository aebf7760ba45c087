"""What a program loads that opens a trained model: nothing that only training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from embedding_expansion.app.cli import main

NAME = "embedding_expansion"
#: Of the data floor: how an image becomes the pixels that a model takes, and the licences of known data sets.
DATA = {"", ".colours", ".decoding", ".preprocessing", ".resizing", ".scans", ".sources"}
#: What embex search needs besides: whether its queries are files of vectors, where images are, and which of them are
#: shrunk.
SEARCH = {".finding", ".prepared", ".walking"}
#: Libraries that take longer to import than all of this package does; conv4 needs none of them.
LARGE = {"torchvision", "timm", "torch._dynamo", "sklearn", "scipy", "matplotlib", "tensorboard"}


def loaded_after(program: str) -> set[str]:
    program += "\nimport sys\nprint('loaded', *sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.rpartition("loaded ")[2].split())


def on(floor: str, loaded: set[str]) -> set[str]:
    """The modules of a floor, by their names in it."""
    whole = f"{NAME}.{floor}"
    return {name.removeprefix(whole) for name in loaded if f"{name}.".startswith(f"{whole}.")}


def check(loaded: set[str], data: set[str]) -> None:
    assert f"{NAME}.model.trained" in loaded
    assert on("training", loaded) == set()
    assert on("data", loaded) <= data
    assert not {name for name in on("core", loaded) if "loss" in name or name in (".modules", ".expansion", ".pairs")}
    assert not loaded & LARGE


@pytest.mark.parametrize("form", ["run", "safetensors"])
def test_opening_a_model_and_embedding_load_nothing_of_training(
    form: str, trained: Path, exports: Path, files: list[Path]
) -> None:
    folder = trained if form == "run" else exports / form
    check(
        loaded_after(
            f"from {NAME} import Embedder\n"
            f"embedder = Embedder.load({str(folder)!r}, device='cpu')\n"
            f"assert embedder.embed({str(files[0])!r}).shape == (1, 6)"
        ),
        DATA,
    )


def test_a_search_loads_nothing_of_training(exports: Path, photographs: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert main(["index", str(exports / "safetensors"), str(photographs), "--out", str(index)]) == 0
    given = ["search", str(index), str(photographs / "class_0" / "0.jpg"), "--device", "cpu"]
    check(loaded_after(f"from {NAME}.app.cli import main\nassert main({given!r}) == 0"), DATA | SEARCH)
