"""embex data: what it lists, and which arguments go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedding_expansion.app.cli import main


def test_the_list_says_for_every_set_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMBEX_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("EMBEX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "sop").mkdir(parents=True)
    for name in ("Ebay_train.txt", "Ebay_test.txt"):
        (tmp_path / "data" / "sop" / name).touch()
    assert main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = {line.split()[0]: line for line in lines}
    assert said["glyphs"].endswith("comes with the package")
    assert "found in data/sop, searched for as Stanford_Online_Products, sop, SOP" in said["sop"]
    for name, folders in (("omniglot", "omniglot, omniglot-py"), ("cub", "CUB_200_2011, cub"), ("cars", "CARS196, ")):
        assert f"not found, searched for as {folders}" in said[name]
    assert "not found, searched for as In-shop Clothes Retrieval Benchmark, In-Shop" in said["inshop"]
    assert ", then ".join(str(tmp_path / place) for place in ("sets", "data", "cache")) in lines[-2]


@pytest.mark.parametrize(
    "arguments",
    ["--part", "list --part", "list check", "glyphs --part", "cub --download --part", "cub check --download"],
)
def test_what_only_a_check_takes_is_refused_elsewhere(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is only valid for checking a data set: embex data" in captured.err


def test_there_is_nothing_to_download_for_the_embedded_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "glyphs", "--download"]) == 2
    assert "nothing to download for glyphs. The glyphs are rendered on first use. Its" in capsys.readouterr().err


def test_a_check_names_broken_images_whatever_their_names(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        (tmp_path / f"{number}").symlink_to(photographs / f"class_{number}")
    own = tmp_path / "größe 9"
    own.mkdir()
    (own / "写 真.PNG").touch()
    assert main(["data", str(tmp_path), "check"]) == 1
    broken = [line for line in capsys.readouterr().out.splitlines() if line.startswith("broken")]
    assert len(broken) == 1
    assert broken[0].startswith(f"broken: {own / '写 真.PNG'}: ")
