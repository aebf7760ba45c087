"""What commands write and print: whole whenever they are killed, to what is named, and to readers that leave."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from app.forks import Ended, run_each
from embedding_expansion.app.cli import COMMANDS, main
from embedding_expansion.data.table import escape_formula

EMBEX = [sys.executable, "-m", "embedding_expansion"]


@pytest.fixture(scope="module")
def index(trained: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of the photographs; no test changes it."""
    place = str(tmp_path_factory.mktemp("outputs") / "index")
    assert main(["index", str(trained), str(photographs), "--out", place, "--device", "cpu"]) == 0
    return place


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that may be written to."""
    return str(shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "copy"))


@pytest.fixture
def query(photographs: Path) -> str:
    return str(photographs / "class_3" / "1.png")


def writing(run: str, index: str, query: str, photographs: Path, folder: Path) -> dict[str, list[str]]:
    """Every option that names a file: the file, and a command that writes it."""
    options = {
        "out.npz": ["embed", run, str(photographs), "--device", "cpu", "--out"],
        "measures.json": ["evaluate", run, "--out"],
        "report.html": ["report", run, "--out"],
        "thresholds.json": ["calibrate", index, "--precision", "0.1", "--out"],
        "copies.csv": ["duplicates", index, "--csv"],
        "copies.html": ["duplicates", index, "--html"],
        "found.json": ["search", index, query, "--json"],
        "found.html": ["search", index, query, "--html"],
    }
    return {name: [*command, str(folder / name)] for name, command in options.items()}


# When a file of this folder is complete, but not in its place yet.
KILL_IN = """
def sync(number):
    if os.path.dirname(os.readlink(f"/proc/self/fd/{{number}}")) == {folder!r}:
        os.kill(os.getpid(), 9)
os.fsync = sync
"""


def test_a_kill_before_a_file_is_in_place_leaves_the_old_one_and_the_next_time_there_is_the_new_one(
    run: str, index: str, query: str, photographs: Path, tmp_path: Path
) -> None:
    commands = writing(run, index, query, photographs, tmp_path)
    for name in commands:
        (tmp_path / name).write_bytes(b"old")
        (tmp_path / name).chmod(0o600)
    kill = KILL_IN.format(folder=str(tmp_path))
    ended = run_each([(kill, command) for command in commands.values()])
    assert [one.status for one in ended] == [-signal.SIGKILL] * len(commands)
    left = {name.rpartition(".partial-")[0] for name in os.listdir(tmp_path) if ".partial-" in name}
    assert left == set(commands)
    for name in commands:
        assert (tmp_path / name).read_bytes() == b"old"
    assert {main(command) for command in commands.values()} == {0}
    assert sorted(os.listdir(tmp_path)) == sorted(commands)
    for name in commands:
        assert len((tmp_path / name).read_bytes()) > 100
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_every_command_refuses_a_read_only_file_before_it_does_anything(
    run: str, index: str, query: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, command in writing(run, index, query, photographs, tmp_path).items():
        (tmp_path / name).write_bytes(b"old")
        (tmp_path / name).chmod(0o444)
        assert main(command) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1), name
        assert f"{tmp_path / name} cannot be written, it is read-only" in said.err
        assert (tmp_path / name).read_bytes() == b"old"


def test_pipes_and_links_have_what_a_file_would_have(
    run: str, index: str, query: str, photographs: Path, tmp_path: Path
) -> None:
    assert main(["search", index, query, "--json", str(tmp_path / "file")]) == 0
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("to come")
    found: list[bytes] = []
    for command in (["search", index, query, "--json"], ["embed", run, str(photographs), "--device", "cpu", "--out"]):
        reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
        reader.start()
        assert main([*command, str(tmp_path / "pipe")]) == 0
        reader.join(60)
        assert main([*command, str(tmp_path / "link")]) == 0
        assert (tmp_path / "to come").read_bytes() == found[-1]
    assert found[0] == (tmp_path / "file").read_bytes()
    assert (tmp_path / "link").is_symlink()
    with np.load(tmp_path / "to come") as content:
        assert content["embeddings"].shape == (32, 6)


def test_two_options_cannot_name_one_file_and_both_may_name_a_device(
    index: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to("file")
    assert main(["duplicates", index, "--csv", str(tmp_path / "file"), "--html", str(tmp_path / "link")]) == 2
    assert "--csv and --html name the same file" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["link"]
    assert main(["duplicates", index, "--csv", "/dev/null", "--html", "/dev/null"]) == 0


def test_where_the_file_is_stdout_nothing_else_is_printed_there(index: str, tmp_path: Path) -> None:
    assert main(["duplicates", index, "--threshold", "0.5", "--csv", str(tmp_path / "file")]) == 0
    command = [*EMBEX, "duplicates", index, "--threshold", "0.5", "--csv", "/dev/stdout"]
    with (tmp_path / "redirected").open("wb") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, timeout=120, check=True)
    assert (tmp_path / "redirected").read_bytes() == (tmp_path / "file").read_bytes()
    assert "32 images, all pairs compared" in done.stderr


# Of a pipe that nobody reads any more, whatever is written to it.
CLOSED = "r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)"


@pytest.fixture(scope="module")
def unread(
    run: str, index: str, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[tuple[list[str], Ended]]]:
    """Every command but serve with a reader of stdout that has left; and the folder that they write to."""
    folder, query = tmp_path_factory.mktemp("unread"), str(photographs / "class_3" / "1.png")
    small = "--sampler.classes_per_batch 2 --sampler.images_per_class 2 --steps 1 --threads 1 --device cpu "
    small += "--data.image_size 16 --data.workers 0 --model.dim 6"
    commands = [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["train", "--data", str(photographs), *small.split(), "--out", str(folder / "run")],
        ["evaluate", run],
        ["evaluate", run, "--out", "/dev/stdout"],
        ["compare", run, run],
        ["completion", "bash"],
        ["reproduce", "evidence", "--dry_run", "--only", "omniglot", "--out", str(folder / "evidence")],
        ["report", run, "--out", str(folder / "report.html")],
        ["calibrate", index, "--precision", "0.1", "--out", str(folder / "thresholds.json")],
        ["export", run, "--format", "safetensors", "--out", str(folder / "export")],
        ["embed", run, str(photographs), "--device", "cpu", "--out", "/dev/stdout"],
        ["index", run, str(photographs), "--device", "cpu", "--out", str(folder / "index")],
        ["add", index, str(photographs), "--device", "cpu"],
        ["remove", index, query, "--dry_run"],
        ["search", index, query, "--html", str(folder / "found.html")],
        ["search", index, query, "--json", "-"],
        ["cluster", index, "--out", str(folder / "clusters")],
        ["duplicates", index, "--csv", str(folder / "copies.csv")],
        ["info", index],
        ["data"],
        ["data", str(photographs), "check"],
        ["env"],
        [
            "tune",
            "--data",
            str(photographs),
            *small.split(),
            "--arms",
            "none",
            "--trials",
            "1",
            "--out",
            str(folder / "t"),
        ],
    ]
    return folder, list(zip(commands, run_each([(CLOSED, command) for command in commands]), strict=True))


def test_a_reader_that_leaves_changes_neither_the_exit_status_nor_the_work(
    unread: tuple[Path, list[tuple[list[str], Ended]]],
) -> None:
    folder, commands = unread
    assert {command[0] for command, _ in commands} == {*COMMANDS, "--help", "--version"} - {"serve"}
    for command, ended in commands:
        assert ended.status == 0, (command, ended.stderr)
        assert ended.stderr == "" or "/dev/stdout" in command, command
    made = {"run", "report.html", "thresholds.json", "export", "index", "found.html", "clusters", "copies.csv", "t"}
    assert set(os.listdir(folder)) == made
    assert (folder / "run" / "report.html").exists()


@pytest.mark.parametrize("unbuffered", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stderr too"])
def test_a_real_process_in_a_pipeline_ends_without_a_word(unbuffered: list[str], both: bool, index: str) -> None:
    command = [sys.executable, *unbuffered, "-m", "embedding_expansion", "info", index]
    errors = subprocess.STDOUT if both else subprocess.PIPE
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        assert process.stdout is not None
        process.stdout.close()  # long before the first line
        assert process.wait(60) == 0
        if process.stderr is not None:
            assert process.stderr.read() == b""


def test_a_full_disk_under_stdout_is_a_sentence_and_no_stdout_at_all_is_none(index: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*EMBEX, "info", index], stdout=full, stderr=subprocess.PIPE, timeout=60, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("embex: stdout cannot be written (No space left on device); free some space")
    closed = ["bash", "-c", '"$@" >&-', "bash", *EMBEX, "info", index]
    done = subprocess.run(closed, capture_output=True, timeout=60, text=True)
    assert (done.returncode, done.stderr) == (0, "")


LABELS = ["=1+1", "+49 30", "-x", "@cmd", "'=quoted", "''-twice", "'s Gravenhage", "\t=tab", "ordinary, with a comma"]


def test_labels_that_a_spreadsheet_would_run_are_marked_and_come_back_as_they_were(
    run: str, photographs: Path, tmp_path: Path
) -> None:
    files = sorted(photographs.rglob("*.png"))[: 2 * len(LABELS)]
    labels = [LABELS[number // 2] for number in range(len(files))]
    first, again = str(tmp_path / "first"), str(tmp_path / "again")
    table = tmp_path / "labels.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["path", "label"], *([path, escape_formula(label)] for path, label in zip(files, labels, strict=True))]
        )
    images = [str(path) for path in files]
    assert main(["index", run, *images, "--labels", str(table), "--out", first, "--device", "cpu"]) == 0
    assert labels_in(first) == dict(zip(images, labels, strict=True))
    assert main(["cluster", first, "--k", "2", "--out", str(tmp_path / "clusters")]) == 0
    assert main(["duplicates", first, "--threshold", "0.01", "--csv", str(tmp_path / "copies.csv")]) == 0
    for written in (tmp_path / "clusters" / "clusters.csv", tmp_path / "copies.csv"):
        with written.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert not [row for row in rows if row["label"].startswith(("=", "+", "-", "@", "\t", "\r"))]
        assert {row["label"] for row in rows} >= {"'=1+1", "''=quoted", "'s Gravenhage", "ordinary, with a comma"}
        shutil.rmtree(again, ignore_errors=True)
        assert main(["index", run, *images, "--labels", str(written), "--out", again, "--device", "cpu"]) in (0, 1)
        assert labels_in(again) == {path: label for path, label in labels_in(first).items() if path in named(rows)}


def named(rows: list[dict[str, str]]) -> set[str]:
    return {row["path"] for row in rows}


def labels_in(place: str) -> dict[str, str | None]:
    from embedding_expansion import open_index

    with open_index(place) as opened:
        return {item.path: item.label for batch in opened.items() for item in batch if item.label is not None}
