"""Shells complete commands, options and names: bash, zsh and fish are started and a line is completed in each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedding_expansion.app.cli import COMMANDS, main

#: What is typed, what is completed of it, and what is not.
LINES = {
    "embex ": (COMMANDS.keys(), {"--help"}),
    "embex dup": ({"duplicates"}, {"data"}),
    "embex train --loss ": ({"triplet", "multi_similarity"}, {"adam"}),
    "embex train --model resnet1": ({"resnet18", "resnet101", "resnet152"}, {"resnet50"}),
    "embex train --model timm/test_vi": ({"timm/test_vit"}, {"conv4"}),
    "embex train --optimizer.na": ({"--optimizer.name"}, {"--optimizer.lr"}),
    "embex train --data ": ({"glyphs", "photos/"}, {"--loss"}),
    "embex evaluate ": ({"photos/"}, {"--data"}),
    "embex evaluate photos --pooling ": ({"avg", "gem"}, {"photos/"}),
    "embex evaluate photos --flip t": ({"true"}, {"false"}),
    "embex nonsense ": (set(), {"photos/"}),
}
ASK = """
import os, sys
from embedding_expansion.app import cli
for line in sys.stdin.read().splitlines():
    child = os.fork()
    if child == 0:
        leave, os._exit = os._exit, sys.exit
        os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "|"}
        os.environ["_ARGCOMPLETE_STDOUT_FILENAME"] = "answer"
        open("answer", "w").close()
        try:
            cli.main()
        except SystemExit:
            pass
        loaded = [name for name in ("torch", "torchvision", "timm", "numpy", "PIL") if name in sys.modules]
        print(open("answer").read() + ";" + "|".join(loaded), flush=True)
        leave(0)
    os.waitpid(child, 0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "program").mkdir()
    program = tmp_path / "program" / "embex"
    program.write_text(f"#!{sys.executable}\nfrom embedding_expansion.app.cli import main\nraise SystemExit(main())\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path


def test_what_can_follow_is_known_without_torch(folder: Path) -> None:
    found = subprocess.run([sys.executable, "-c", ASK], input="\n".join(LINES), capture_output=True, text=True)
    answers = found.stdout.splitlines()
    assert len(answers) == len(LINES), found.stderr
    for answer, (line, (right, wrong)) in zip(answers, LINES.items(), strict=True):
        completed, loaded = answer.split(";")
        words = {word.strip() for word in completed.split("|")}
        assert right <= words, line
        assert not wrong & words, line
        assert not loaded, line


IN_SHELL = {
    "bash": """
eval "$(embex completion bash)"
COMP_LINE='embex train --loss tri' COMP_POINT=22 COMP_WORDS=(embex train --loss tri) COMP_CWORD=3 COMP_TYPE=9
_python_argcomplete embex tri --loss
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "fish": """
embex completion fish | source
complete -C 'embex train --loss tri'
""",
    "zsh": """
zmodload zsh/zpty
zpty terminal 'zsh -f -i'
zpty -w terminal 'autoload -Uz compinit; compinit -D -u; eval "$(embex completion zsh)"; echo read''y'
zpty -r terminal answer '*ready*'
zpty -w -n terminal $'embex train --loss tri\\t'
zpty -r terminal answer '*triplet*'
print -r -- $answer
""",
}


@pytest.mark.parametrize("shell", IN_SHELL)
def test_a_shell_completes_the_name_of_a_loss(folder: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run([shell, *options, "-c", IN_SHELL[shell]], capture_output=True, text=True, timeout=300)
    assert "triplet" in done.stdout.split(), done.stderr
    assert "multi_similarity" not in done.stdout


def test_the_script_of_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "pass bash or zsh or fish" in capsys.readouterr().err
