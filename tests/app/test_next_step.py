"""The command that is printed after each command can be typed as it stands, also where a path needs quotes."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from embedding_expansion.app.cli import main
from embedding_expansion.app.next_step import after_evaluation, after_run, print_next, typed

NAME = "my photos; $HOME's"


@pytest.fixture(scope="module")
def here(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs under a name that a shell would split, and a run that was trained on them."""
    folder = tmp_path_factory.mktemp("next")
    shutil.copytree(photographs, folder / NAME)
    options = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 2 --threads 1 --device cpu"
    sizes = "--data.image_size 16 --data.workers 0 --model.dim 6"
    given = ["--data", str(folder / NAME), *options.split(), *sizes.split(), "--out", str(folder / "a run")]
    assert main(["train", *given]) == 0
    return folder


def next_of(printed: str) -> list[str]:
    """The words of the command in the last line, as a shell splits them."""
    lines = printed.splitlines()
    assert [line for line in lines if line.startswith("next: ")] == lines[-1:]
    program, *words = shlex.split(lines[-1].removeprefix("next: "))
    assert program == "embex"
    return words


@pytest.mark.parametrize(
    ("first", "chain"),
    [
        (["report", "a run"], ["index", "search", "serve"]),
        (["compare", "a run", "a run"], ["index"]),
        (["evaluate", "a run"], ["calibrate"]),
        (["embed", "a run", NAME, "--out", "a.npz"], ["index"]),
        (["export", "a run", "--format", "safetensors", "--out", "an export"], ["embed", "index", "search"]),
        (["cluster", NAME, "--model", "a run", "--k", "2", "--out", "groups"], ["index"]),
        (["data", NAME, "check"], ["train"]),
    ],
    ids=lambda each: each[0],
)
def test_what_is_printed_can_be_typed(
    here: Path,
    first: list[str],
    chain: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in (NAME, "a run"):
        (tmp_path / name).symlink_to(here / name)
    monkeypatch.chdir(tmp_path)
    words = first
    for command in chain:
        assert main(words) == 0
        words = next_of(capsys.readouterr().out)
        assert words[0] == command
        if command in ("serve", "train", "calibrate"):  # which go on for long, or need more classes
            return
    assert main(words) == 0


def test_an_index_leads_to_its_duplicates_and_back(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["index", str(here / "a run"), str(here / NAME), "--out", "an index"]) == 0
    assert next_of(capsys.readouterr().out)[0] == "search"
    more = {"duplicates": ["--threshold", "0.01"]}  # at which many images are alike
    words = ["cluster", "an index", "--k", "2", "--out", "groups"]
    for command in ("duplicates", "remove", "info", "search"):
        assert main(words) == 0
        words = next_of(capsys.readouterr().out)
        assert words[0] == command
        if command == "remove":
            assert (Path(words[2]).is_file(), words[3:]) == (True, ["--dry_run"])
        words += more.get(command, [])


def test_nothing_is_added_to_data_on_stdout(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "index")
    assert main(["index", str(here / "a run"), str(here / NAME), "--out", place]) == 0
    image = str(next(path for path in (here / NAME).rglob("*") if path.is_file()))
    capsys.readouterr()
    assert main(["search", place, image, "--json", "-"]) == 0
    assert "next:" not in capsys.readouterr().out


def test_words_are_quoted_and_no_path_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    print_next(["embex", "info", Path("it's")])
    assert capsys.readouterr().out == "next: embex info 'it'\"'\"'s'\n"
    print_next([])
    assert capsys.readouterr().out == ""
    assert typed({"part": True, "mean": [0.5, 0.5]}) == ["--part", "true", "--mean", "[0.5, 0.5]"]
    assert after_run("-run")[2:] == ["./-run", "--precision", "0.99"]
    given = {"pretrained": True, "image_size": 64}
    expected = "embex train --data photos --model resnet18 --model.pretrained true --data.image_size 64"
    assert after_evaluation("resnet18", "photos", given) == expected.split()
