"""The tutorial as it stands: its shell blocks run in order, on letters written out as files."""

from __future__ import annotations

import csv
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import DOCS
from embedding_expansion.app.cli import main

TEXT = (DOCS / "tutorial.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()]
(PROGRAM,) = re.findall(r"```py\n(.*?)```", TEXT, flags=re.DOTALL)
PORT = re.search(r"--port (\d+)", TEXT)[1]  # type: ignore[index]
IMAGES = 114 * 6
# What is added to a command, so that it takes seconds.
SMALLER = {
    "python examples/glyph_photos.py": " 114 6",
    "embex train": " --steps 6 --eval_every 6 --model.dim 16 --threads 1 --device cpu --measure_before false",
}


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def answers(port: str, server: subprocess.Popen[str]) -> bool:
    """Whether the server says before a minute is over that it is there."""
    end = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    return False


class Shell:
    """Runs the lines of the page: `embex` in this process, but for the server; what each printed is kept."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture, self.port = capture, free_port()
        self.printed: dict[str, str] = {}
        self.server: subprocess.Popen[str] | None = None

    def run(self, line: str) -> None:
        command = line + next((more for start, more in SMALLER.items() if line.startswith(start)), "")
        words = shlex.split(command.replace(PORT, self.port))
        if words[:2] == ["embex", "serve"]:
            self.server = subprocess.Popen([sys.executable, "-m", "embedding_expansion", *words[1:]], text=True)
            assert answers(self.port, self.server), line
        elif words[0] == "embex":
            self.capture.readouterr()
            status = main(words[1:])
            self.printed[line], errors = self.capture.readouterr()
            assert status == 0, f"{line}: {errors}"
        else:
            if words[0] == "python":
                words = [sys.executable, str(DOCS.parent / words[1]), *words[2:]]
            run = subprocess.run(words, capture_output=True, text=True, timeout=60)
            assert run.returncode == 0, f"{line}: {run.stderr}"
            self.printed[line] = run.stdout

    def said(self, start: str) -> str:
        """What the only line that begins so has printed."""
        (found,) = [text for line, text in self.printed.items() if line.startswith(start)]
        return found


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    monkeypatch.chdir(tmp_path)
    shell = Shell(capsys)
    yield shell
    if shell.server is not None and shell.server.poll() is None:
        shell.server.kill()
        shell.server.wait()


def rows(file: str) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_command_of_the_tutorial_runs_and_does_what_the_page_says(shell: Shell) -> None:
    for line in LINES:
        shell.run(line)

    assert Path("runs/first/report.html").is_file()
    assert set(json.loads(Path("runs/first/thresholds.json").read_text())) == {"same or not", "known or unknown"}
    assert "Recall@1" in shell.said("embex evaluate")

    # An image of the collection finds itself first.
    first = shell.said("embex search photos.index photos/digit-two/01.png -k 5").splitlines()
    (best,) = [line for line in first if re.match(r"\s*1\s", line)]
    assert "digit-two" in best
    assert str(Path("photos/digit-two/01.png")) in best
    page = Path("answers.html").read_text(encoding="utf-8")
    assert "digit-two" in page
    assert "digit-six" in page

    clusters = rows("clusters/clusters.csv")
    assert len(clusters) == IMAGES + 1
    assert {row["cluster"] for row in clusters} <= {str(number) for number in range(-1, 20)}
    assert Path("clusters/index.html").is_file()
    assert "more/two.png" in Path("duplicates.csv").read_text(encoding="utf-8")

    assert len(json.loads(shell.said("curl"))["matches"]) == 3
    assert shell.server is not None
    shell.server.send_signal(signal.SIGINT)
    assert shell.server.wait(timeout=30) in (0, 128 + signal.SIGINT)

    assert json.loads(Path("first.model/model.json").read_text())
    assert Path("first.model/thresholds.json").is_file()


def test_the_program_of_the_tutorial_finds_what_it_prints(shell: Shell) -> None:
    for line in LINES:
        if line.startswith(("python ", "embex train", "embex index", "mkdir", "cp ")):
            shell.run(line)
    shell.capture.readouterr()
    exec(compile(PROGRAM, "docs/tutorial.md", "exec"), {})
    printed = shell.capture.readouterr().out.splitlines()
    assert len(printed) == 5
    assert printed[0].startswith("1.000 digit-two ")
