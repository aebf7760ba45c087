"""The command line as a user meets it: help at once, mistakes as one line with status 2."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from embedding_expansion import __version__
from embedding_expansion.app.cli import COMMANDS, main
from embedding_expansion.runs.option_errors import sentence

MISTAKES = [
    ("trian", "did you mean 'train'"),
    ("train --stps 3", "did you mean --steps"),
    ("train --steps three", "--steps is 'three'; pass a whole number"),
    ("train --steps 0", "steps is 0"),
    ("train --steps", "--steps"),
    ("train --protocol papr", "did you mean paper"),
    ("train --expansion.scope anchr", "did you mean anchor"),
    ("train --expansion.form balansed", "did you mean balanced"),
    ("train --expansion.balance maybe", "--expansion.balance is 'maybe'; pass true or false or sphere"),
    ("train --expansion none --expansion.balance true", "expansion.balance is true, but the run has no expansion"),
    ("train --expansion none --expansion.form balanced", "expansion.n is none, which trains without expansion"),
    ("train --expansion.form samples --expansion.scope anchor", "the form samples does not search for hardest pairs"),
    ("train --expansion.form samples --expansion 0", "expansion.n is 0, but the form samples adds n points"),
    ("train --expansion.form anchor --sampler.images_per_class 3", "sampler.images_per_class is 3"),
    ("train --expansion.n 1.5", "pass a whole number or inf or none"),
    ("train --expansion infinite", "pass a whole number or inf or none"),
    ("train --expansion.max_segments 0", "expansion.max_segments is 0"),
    ("train --chunk 0", "chunk is 0"),
    ("train --memory 0", "memory.size is 0; pass a number of 1 to 16,777,216, or none"),
    ("train --memory.size -4", "memory.size is -4"),
    ("train --memory many", "--memory.size is 'many'; pass a whole number or none"),
    ("train --memory.start 5", "there is no memory; pass --memory.size"),
    ("train --memory 64 --memory.start 300", "memory.start is 300, but there are 300 steps"),
    ("train --memory 63 --expansion.scope anchor", "memory.size is 63"),
    (
        "train --memory 64 --loss proxy_anchor",
        "ProxyAnchorLoss compares with proxies of all classes",
    ),
    ("train --miner multi_similarty", "did you mean 'multi_similarity'"),
    ("train --miner.epsilon nan", "--miner.epsilon is 'nan'; pass a number"),
    ("train --miner distance_weighted --model.dim 2", "dimensions is 2"),
    ("train --loss triplet --loss.mining semihart", "did you mean 'semihard'"),
    ("train --loss recall_at_k --loss.ks some", "ks of RecallAtKLoss is 'some'; pass whole numbers"),
    ("train --loss histogram --loss.bins 2.5", "pass a whole number"),
    ("train --expansion.n -1", "expansion.n is -1"),
    ("train --loss tripplet", "did you mean 'triplet'"),
    ("train --loss.alfa 2", "did you mean 'alpha'"),
    ("train --loss.alpha wide", "pass a number"),
    ("train --data glyfs", "did you mean 'glyphs'"),
    ("train --data /no/such/folder", "/no/such/folder"),
    ("train --device cuba", "no device 'cuba'"),
    ("train --config /no/such.yaml", "/no/such.yaml"),
    ("train --resume /no/such/run", "/no/such/run"),
    ("train --resume somewhere --steps 3", "as it was configured"),
    ("train extra", "there is no argument 'extra'; --help lists"),
    ("train --xy 3", "there is no option '--xy'; --help lists"),
    ("train --device meta", "device is meta"),
    ("train --model.channels 0", "model.channels is 0"),
    ("train --expansion.scope anchor --sampler.images_per_class 3", "sampler.images_per_class is 3"),
    ("evaluate", "run"),
    ("evaluate /no/such/run", "/no/such/run"),
    ("embed /no/such/run", "images"),
    ("data glyfs", "did you mean 'glyphs'"),
    ("data glyphs chek", "chek"),
    ("data sop --download --root /proc/nowhere", "/proc/nowhere"),
]


@pytest.mark.parametrize(("command", "expected"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(
    command: str, expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("embex: ")
    assert said.err.count("\n") == 1
    assert expected in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"\x00\xff\xfe", b"\x00", b"{", b"[]", b"expansion: wide"])
@pytest.mark.parametrize("joined", [False, True])
def test_a_config_file_that_is_none_is_one_line_that_names_it(
    content: bytes, joined: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert main(["train", f"--config={path}"] if joined else ["train", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said or "expansion is 'wide'" in said


def test_a_backbone_mistyped_comes_back_with_the_nearest(photographs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(photographs), "--sampler.classes_per_batch", "2", "--model", "resnet81"]
    assert main(["train", *given]) == 2
    assert "did you mean 'resnet18'" in capsys.readouterr().err


def test_a_mistake_in_a_real_process_is_one_line_and_status_2_as_well() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "embedding_expansion", "train", "--stps", "3"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "embex: there is no option '--stps'; did you mean --steps? --help lists all options\n"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_given_without_loading_anything_heavy(command: str) -> None:
    program = (
        "import sys\nfrom embedding_expansion.app.cli import main\n"
        f"try: main({[*command.split(), '--help']!r})\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'sklearn', 'matplotlib', 'PIL', 'tensorboard'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    assert f"usage: embex {command or 'COMMAND'}" in finished.stdout


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"embex {__version__}\n"


@pytest.mark.parametrize("native", ["0", "1"])
def test_env_says_which_versions_and_which_form_of_the_kernels_are_used(native: str) -> None:
    command = [sys.executable, "-m", "embedding_expansion", "env"]
    run = subprocess.run(command, env=os.environ | {"EMBEX_NATIVE": native}, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    said = dict(line.split(": ", 1) for line in run.stdout.splitlines())
    assert said["embedding-expansion"] == __version__
    assert said["torch"] == version("torch")
    assert said["python"].startswith(f"{platform.python_version()}, ")
    assert not {"pytest", "sphinx"} & set(said)
    for kernels in ("search for hardest pairs", "retrieval measures"):
        if native == "0":
            assert said[kernels] == "torch, because EMBEX_NATIVE=0 turns the C library off"
        else:
            assert said[kernels].startswith(("C library (", "torch, because the C library was not compiled: install"))


def test_what_the_parser_says_otherwise_is_still_one_line() -> None:
    assert sentence('Parser key "x":\n  something\n  new', []) == '"x": something new'
