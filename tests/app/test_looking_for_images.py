"""The commands that look for images find the same ones, and say what they pass over."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from embedding_expansion.app.cli import main
from embedding_expansion.retrieval.index import open_index

TRAIN = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 1 --threads 1 --device cpu"
SIZES = "--data.image_size 16 --data.workers 0 --model.dim 4 --protocol last"


@pytest.fixture
def photos(photographs: Path, tmp_path: Path) -> Path:
    """Class folders that are links, and one that is none, with all that the commands must pass over."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(1, 4):
        (folder / f"class_{number}").symlink_to(photographs / f"class_{number}")
    shutil.copytree(photographs / "class_0", folder / "class_0")
    first = folder / "class_0" / "0.png"
    for hidden in (".ipynb_checkpoints/0-checkpoint.png", "._0.png", "__MACOSX/0.png", "Thumbs.db"):
        (first.parent / hidden).parent.mkdir(exist_ok=True)
        shutil.copy(first, first.parent / hidden)
    (first.parent / "up").symlink_to("..")
    (folder / ".Trash-1000").mkdir()
    shutil.copy(first, folder / ".Trash-1000" / "deleted.png")
    (folder / "class_9").mkdir()
    for name in ("1.heic", "2.heic", "notes.txt"):
        (folder / "class_9" / name).touch()
    return folder


def left_out(photos: Path) -> str:
    up, empty = photos / "class_0" / "up", photos / "class_9"
    return f"ignored: .heic 2, .txt 1; folders without images: {empty}; links that lead back up: {up}"


def test_every_command_takes_the_same_images_and_says_what_it_passes_over(
    photos: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "out", left_out(photos)
    out.mkdir()
    assert main(["data", str(photos), "check"]) == 0
    said = capsys.readouterr()
    assert "train: 2 classes, 8 images" in said.out
    assert "test: 2 classes, 8 images" in said.out
    assert told in said.out.splitlines()

    assert main(["train", "--data", str(photos), "--out", str(out / "run"), *TRAIN.split(), *SIZES.split()]) == 0
    said = capsys.readouterr()
    assert "data: photos; 2 classes (8 images) train; 2 classes (8 images) test" in said.out
    assert told in said.out.splitlines()

    assert main(["index", str(trained), str(photos), "--out", str(out / "index")]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("16 images in")
    assert said.err.splitlines() == [f"embex: {told}"]
    with open_index(out / "index") as index:
        found = {item.path: item.label for items in index.items() for item in items}
    assert found == {str(photos / f"class_{c}" / f"{i}.png"): f"class_{c}" for c in range(4) for i in range(4)}

    assert main(["add", str(out / "index"), str(photos)]) == 0
    said = capsys.readouterr()
    assert "0 new, 0 changed, 16 unchanged" in said.out
    assert said.err.splitlines() == [f"embex: {told}"]

    assert main(["embed", str(trained), str(photos), "--out", str(out / "vectors.npz")]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [f"embex: {told}"]
    with np.load(out / "vectors.npz") as content:
        assert content["paths"].tolist() == list(found)

    clusters = ["--k", "2", "--out", str(out / "clusters"), "--links", "false"]
    assert main(["cluster", str(photos), "--model", str(trained), *clusters]) == 0
    said = capsys.readouterr()
    assert "16 images: 2 clusters" in said.out
    assert said.err.splitlines() == [f"embex: {told}"]


# A process of its own: root may read everything unless it gives that right up.
UNREADABLE = """
import os, sys
from embedding_expansion.app.cli import main
photos, run, out, folder, file = sys.argv[1:]
commands = (
    ["train", "--data", photos, "--out", out + "/run"],
    ["data", photos, "check"],
    ["index", run, photos, "--out", out + "/index"],
    ["embed", run, photos, "--out", out + "/vectors.npz"],
    ["cluster", photos, "--model", run, "--k", "2", "--out", out + "/clusters"],
)
statuses = {}
os.chmod(folder, 0)
for command in commands:
    statuses[command[0]] = [main(command)]
os.chmod(folder, 0o755)
print("written:", os.listdir(out))
os.chmod(file, 0)
for command in commands[1:]:
    print("-- a file,", command[0], file=sys.stderr)
    statuses[command[0]].append(main(command))
print(statuses)
"""


def without_rights(*arguments: str) -> subprocess.CompletedProcess[str]:
    rights = "-dac_override,-dac_read_search"
    drop = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    command = [*drop, sys.executable, "-c", UNREADABLE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_what_cannot_be_read_is_named_by_every_command(photographs: Path, trained: Path, tmp_path: Path) -> None:
    """A folder: nothing is written, since its images would be missed. A file: it alone is left out."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(photographs, photos)
    out.mkdir()
    folder, file = photos / "class_3", photos / "class_5" / "2.png"
    ended = without_rights(*map(str, (photos, trained, out, folder, file)))
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert "written: []" in lines
    assert lines[-1] == str({"train": [2]} | {name: [2, 1] for name in ("data", "index", "embed", "cluster")})
    first, *others = ended.stderr.split("-- a file, ")
    sentence = f"embex: 1 folder cannot be read: {folder} (Permission denied); make it readable, or move it elsewhere"
    assert [line.startswith(sentence) for line in first.splitlines()] == [True] * 5, first
    assert [line for line in lines if line.startswith(f"broken: {file}: ")]
    for said in others[1:]:
        assert f"embex: skipped {file}: " in said
        assert "Permission denied" in said


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        (".jfif", "JPEG"),
        (".JPE", "JPEG"),
        pytest.param(
            ".avif",
            "AVIF",
            marks=pytest.mark.skipif(
                "avif" not in features.modules or not features.check_module("avif"),
                reason="the Pillow installed here does not write AVIF",
            ),
        ),
    ],
)
def test_other_endings_of_images_are_read(
    ending: str, kind: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        (tmp_path / f"{number}").mkdir()
        with Image.open(photographs / f"class_{number}" / "0.png") as image:
            image.save(tmp_path / f"{number}" / f"a{ending}", format=kind)
    assert main(["data", str(tmp_path), "check"]) == 0
    assert "sizes: 20 x 20 to 20 x 20" in capsys.readouterr().out


def test_a_table_with_an_image_twice_is_refused_and_equal_bytes_on_both_sides_are_a_warning(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"class_{c}/{i}.png", str(c), "train" if c < 4 else "test") for c in range(8) for i in range(4)]
    table = tmp_path / "set.csv"
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)

    def check(*more: tuple[str, str, str]) -> tuple[int, str, str]:
        table.write_text("\n".join(map(",".join, [("path", "label", "split"), *rows, *more])) + "\n")
        status = main(["data", str(table), "check"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    assert check()[::2] == (0, "")
    for again in (rows[-1], (rows[-1][0], "7", "train"), (rows[-1][0], "5", "test")):
        status, _, complaint = check(again)
        assert status == 2
        assert "twice, in line 33 (validation, label 7) and line 34" in complaint
        assert complaint.count("\n") == 1
    shutil.copy(tmp_path / "class_0" / "1.png", tmp_path / "copy.png")
    status, said, _ = check(("copy.png", "7", "test"))
    assert status == 0
    warning = "warning: 1 test images are identical to training images, the first: "
    assert f"{warning}{tmp_path / 'copy.png'} and {tmp_path / 'class_0' / '1.png'}" in said.splitlines()


def test_equal_bytes_on_both_sides_of_a_folder_are_a_warning(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photographs, tmp_path, dirs_exist_ok=True)
    for name in ("8.png", "9.png"):
        shutil.copy(tmp_path / "class_1" / "2.png", tmp_path / "class_6" / name)
    assert main(["data", str(tmp_path), "check"]) == 0
    said = capsys.readouterr().out
    assert "warning: 2 test images are identical to training images, the first: " in said
    assert f"{tmp_path / 'class_6' / '8.png'} and {tmp_path / 'class_1' / '2.png'}" in said
