"""What is exported agrees with the run, says what it takes, runs without torch, and is whole or not there."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embedding_expansion.app.cli import main
from embedding_expansion.errors import InvalidInput, RunError
from embedding_expansion.inference import export as exporting
from embedding_expansion.inference.embedder import Embedder
from embedding_expansion.inference.export import export


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_an_exported_model_embeds_as_the_run_does(kind: str, trained: Path, exports: Path, files: list[Path]) -> None:
    run, exported = Embedder.load(trained, device="cpu"), Embedder.load(exports / kind, device="cpu")
    assert (exported.dimensions, exported.image_size) == (run.dimensions, run.image_size)
    for few in (files[:1], files[:7], files):
        np.testing.assert_allclose(exported.embed(few, flip=True), run.embed(few, flip=True), atol=1e-5)
    assert exported.describe()["checked"]["largest_difference"] < 1e-4


PROGRAM = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "scipy", "sklearn", "jsonargparse"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
from embedding_expansion.inference.embedder import Embedder
folder, out, *images = sys.argv[1:]
np.save(out, Embedder.load(folder).embed(images, flip=True))
"""


def test_an_onnx_model_needs_no_torch(exports: Path, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    command = [sys.executable, "-c", PROGRAM, str(exports / "onnx"), str(out), *map(str, files)]
    subprocess.run(command, check=True, timeout=120)
    expected = Embedder.load(exports / "onnx", device="cpu").embed(files, flip=True)
    assert np.array_equal(np.load(out), expected)


def test_the_program_of_torch_takes_any_number_of_images_and_is_not_opened_by_us(trained: Path, exports: Path) -> None:
    program = torch.export.load(exports / "torch" / "model.pt2").module()
    images = np.random.default_rng(3).integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    whole = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    opened = exporting.load_trained(trained).model
    for count in (1, 7):
        found, expected = program(whole[:count]), opened.embed(whole[:count])
        np.testing.assert_allclose(found.detach().numpy(), expected.numpy(), atol=1e-6)
    with pytest.raises(InvalidInput, match=r"can execute code .* torch\.export\.load yourself"):
        Embedder.load(exports / "torch")


def test_the_folder_says_what_the_model_takes_and_how_good_it_is(trained: Path, exports: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    for folder in exports.iterdir():
        about = json.loads((folder / "model.json").read_text())
        assert about["preprocessing"]["size"] == 16
        assert about["input"]["shape"] == ["batch", 3, 16, 16]
        card = (folder / "README.md").read_text()
        assert "- loss: multi_similarity, plain\n" in card  # the run has no expansion
        assert f"| recall_at_1 | {metrics['recall_at_1']:.4f} |" in card
        assert "initial weights: random weights" in card
        assert "cut 16 x 16 from the middle" in card


def test_no_place_on_this_machine_is_told(photographs: Path, exports: Path) -> None:
    for path in exports.rglob("*"):
        if path.is_file():
            assert str(photographs.parent).encode() not in path.read_bytes(), path


def test_a_model_that_does_not_agree_is_refused_and_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-12)  # less than float32 can hold
    with pytest.raises(RunError, match="differs from PyTorch by"):
        export(trained, "onnx", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_nan_does_not_agree() -> None:
    with pytest.raises(RunError, match="by nan"):
        exporting.check_agreement(float("nan"), "conv4", "onnx")


def test_a_kill_leaves_no_half_folder(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from embedding_expansion.files import make_folder\n"
        "def fill(folder):\n"
        "    (folder / 'model.onnx').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "make_folder(Path(sys.argv[1]), fill)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


def test_what_is_there_already_is_not_touched(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty"):
        export(trained, "safetensors", tmp_path)
    with pytest.raises(RunError, match="there is no folder"):
        export(trained, "safetensors", tmp_path / "nowhere" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_one_sentence(
    library: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 2
    assert f"needs the library {library}; pip install 'embedding-expansion[export]'" in capsys.readouterr().err


def test_mistakes_on_the_command_line_are_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), "--format", "onx", "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'onnx'" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_embex_embed_opens_an_export(exports: Path, photographs: Path, files: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "vectors.npz"
    assert main(["embed", str(exports / "onnx"), str(photographs), "--flip", "true", "--out", str(out)]) == 0
    with np.load(out) as stored:
        assert stored["paths"].tolist() == [str(path) for path in files]
        assert np.array_equal(stored["embeddings"], Embedder.load(exports / "onnx").embed(files, flip=True))


def test_the_example_on_the_page_runs(
    trained: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    shutil.copytree(trained, tmp_path / "runs" / "birds")
    for name, file in zip(("a.jpg", "b.jpg"), files, strict=False):
        shutil.copy(file, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, "export.md", "exec"), names)
    assert names["vectors"].shape == (1, 6)
    assert list(names["broken"]) == [1]


def broken(content: dict[str, Any], section: str | None, name: str, value: object) -> dict[str, Any]:
    if section is None:
        return content | {name: value}
    return content | {section: content[section] | {name: value}}


@pytest.mark.parametrize(
    ("section", "name", "value", "sentence"),
    [
        (None, "version", 2, "has version 2"),
        (None, "format", "pickle", "has the unknown format 'pickle'"),
        (None, "preprocessing", [], "has preprocessing.size None"),
        ("preprocessing", "size", 0, "has preprocessing.size 0"),
        ("preprocessing", "short_side", 15, "crops a square of 16 pixels from a shorter side of 15"),
        ("preprocessing", "short_side", True, "has preprocessing.short_side True"),
        ("embedding", "dimensions", "six", "has embedding.dimensions 'six'"),
    ],
)
def test_a_broken_manifest_is_one_sentence(
    exports: Path, tmp_path: Path, section: str | None, name: str, value: object, sentence: str
) -> None:
    content = json.loads((exports / "onnx" / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(broken(content, section, name, value)))
    with pytest.raises(RunError, match=sentence):
        Embedder.load(tmp_path)


def test_a_model_that_is_missing_broken_or_another_one_is_one_sentence(exports: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exports / "onnx", tmp_path / "copy")
    content = json.loads((folder / "model.json").read_text())
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    for section, name, value in (("embedding", "dimensions", 7), ("preprocessing", "size", 17)):
        (folder / "model.json").write_text(json.dumps(broken(content, section, name, value)))
        with pytest.raises(RunError, match=r"declares 7|cannot embed images of 17 pixels"):
            Embedder.load(folder).embed(image)
    (folder / "model.json").write_text(json.dumps(content))
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
    with pytest.raises(RunError, match=r"model\.onnx cannot be read as a model"):
        Embedder.load(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(RunError, match=r"model\.onnx cannot be read as a model"):
        Embedder.load(folder)


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "cuda"])
def test_a_device_that_onnxruntime_lacks_is_refused(exports: Path, name: str) -> None:
    import onnxruntime

    if name == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(InvalidInput, match="pass cpu"):
        Embedder.load(exports / "onnx", device=name)
