"""A run folder that was tampered with, or half lost: one line that names the file, status 2, and nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from embedding_expansion.app.cli import main
from embedding_expansion.model.weights import load_tensors, save_tensors

CHECKPOINT = "checkpoints/step-00000003.safetensors"
Change = Callable[[Path], object]


def holding(content: bytes) -> Change:
    return lambda path: path.write_bytes(content)


def replacing(old: str, new: str) -> Change:
    return lambda path: path.write_text(path.read_text().replace(old, new))


def ending(line: str) -> Change:
    return lambda path: path.write_text(path.read_text() + line + "\n")


def about(change: Callable[[dict[str, Any]], object]) -> Change:
    """Changes what a checkpoint says about itself, with a checksum that fits, and leaves its tensors."""
    return lambda path: _rewrite(path, change, lambda tensors: tensors)


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    """Changes a checkpoint's tensors, with a checksum that fits."""
    return lambda path: _rewrite(path, lambda values: values, change)


def _rewrite(path: Path, change_about: Callable[..., Any], change_tensors: Callable[..., Any]) -> None:
    found, values = load_tensors(path)
    save_tensors(path, change_tensors(found), change_about(values))


def metadata(text: str) -> Change:
    """Puts something else where a checkpoint says what it holds."""
    return lambda path: save_file(load_tensors(path)[0], path, metadata={"about": text})


RESUMED = {
    "metrics: {": ("metrics.json", holding(b"{")),
    "metrics: []": ("metrics.json", holding(b"[]")),
    "metrics: {}": ("metrics.json", holding(b"{}")),
    "metrics: binary": ("metrics.json", holding(b"\x00\xff\xfe")),
    "config: binary": ("config.yaml", holding(b"\x00\xff\xfe")),
    "config: another dim": ("config.yaml", replacing("dim: 6", "dim: 7")),
    "config: another optimiser": ("config.yaml", replacing("name: adam\n", "name: adamw\n")),
    "environment: {": ("environment.json", holding(b"{")),
    "environment: resumed is a number": ("environment.json", holding(b'{"resumed": 3}')),
    "log: garbage": ("log.jsonl", ending("garbage")),
    "log: no step": ("log.jsonl", ending('{"a":1}')),
    "log: []": ("log.jsonl", ending("[]")),
    "log: binary": ("log.jsonl", holding(b"\x00\xff\xfe\n")),
    "about: {}": (CHECKPOINT, about(lambda _: {})),
    "about: [1]": (CHECKPOINT, metadata("[1]")),
    "about: no JSON": (CHECKPOINT, metadata("{")),
    "about: a number within": (CHECKPOINT, metadata('{"about":1,"checksum":""}')),
    "about: foo": (CHECKPOINT, about(lambda _: {"foo": 1})),
    "about: step x": (CHECKPOINT, about(lambda values: values | {"step": "x"})),
    "about: step of another file": (CHECKPOINT, about(lambda values: values | {"step": 2})),
    "about: broken is a list": (CHECKPOINT, about(lambda values: values | {"broken": ["x"]})),
    "about: one more field": (CHECKPOINT, about(lambda values: values | {"foo": 1})),
    "about: best step that is gone": (CHECKPOINT, about(lambda values: values | {"best_step": 1})),
    "tensors: one missing": (CHECKPOINT, tensors(lambda all_: dict(list(all_.items())[1:]))),
    "tensors: foreign": (CHECKPOINT, tensors(lambda _: {"x": torch.zeros(2)})),
    "tensors: no optimiser": (
        CHECKPOINT,
        tensors(lambda all_: {name: tensor for name, tensor in all_.items() if not name.startswith("optimizer")}),
    ),
    "checkpoints: gone": ("checkpoints", shutil.rmtree),
    "fingerprint: {": ("fingerprint.json", holding(b"{")),
    "fingerprint: []": ("fingerprint.json", holding(b"[]")),
    "fingerprint: {}": ("fingerprint.json", holding(b"{}")),
    "fingerprint: sides of numbers": ("fingerprint.json", replacing('"sides":{', '"sides":{"more":1,')),
    "fingerprint: an image is a number": ("fingerprint.json", replacing('"train":{', '"train":{"x":[1],')),
    "fingerprint: binary": ("fingerprint.json", holding(b"\x00\xff\xfe")),
    "fingerprint: gone": ("fingerprint.json", Path.unlink),
}


@pytest.mark.parametrize(("file", "change"), RESUMED.values(), ids=RESUMED)
def test_resuming_a_broken_run_is_one_line_that_names_the_file(
    file: str, change: Change, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    if file != "metrics.json":
        (run / "metrics.json").unlink()
    change(run / file)
    assert main(["train", "--resume", str(run)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("embex: ")
    assert said.err.count("\n") == 1
    assert file in said.err or "step 1, is missing" in said.err


def test_a_file_that_is_no_checkpoint_is_left_alone_by_a_resumed_run(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "metrics.json").unlink()
    mine = run / "checkpoints" / "step-foo.safetensors"
    mine.write_bytes(b"mine")
    assert main(["train", "--resume", str(run)]) == 0
    assert mine.read_bytes() == b"mine"
    assert json.loads((run / "environment.json").read_text())["resumed"][0]["after_step"] == 3


EVALUATED = {
    "config: binary": ("config.yaml", holding(b"\x00\xff\xfe")),
    "config: another dim": ("config.yaml", replacing("dim: 6", "dim: 7")),
    "weights: one missing": ("model.safetensors", tensors(lambda all_: dict(list(all_.items())[1:]))),
    "weights: about [1]": ("model.safetensors", metadata("[1]")),
}


@pytest.mark.parametrize(("file", "change"), EVALUATED.values(), ids=EVALUATED)
def test_evaluating_a_broken_run_is_one_line_that_names_the_file(
    file: str, change: Change, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    change(run / file)
    assert main(["evaluate", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("embex: ")
    assert said.count("\n") == 1
    assert file in said


def test_embeddings_that_are_no_numbers_are_said_to_be_the_models(
    trained: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    tensors(lambda all_: {name: tensor * torch.nan for name, tensor in all_.items()})(run / "model.safetensors")
    assert main(["evaluate", str(run)]) == 2
    assert main(["embed", str(run), str(photographs), "--out", str(tmp_path / "x.npz")]) == 2
    assert capsys.readouterr().err.count("the model's embeddings are NaN or infinite") == 2
