"""The examples of `--help` are commands that a user can type."""

from __future__ import annotations

import importlib
import shlex
from typing import Any

import pytest

from embedding_expansion.app import arguments
from embedding_expansion.app.cli import COMMANDS, SUBCOMMANDS, main
from embedding_expansion.app.examples import EXAMPLES


class _Parsed(Exception):
    """The arguments are valid."""


@pytest.mark.parametrize("example", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_understood(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, name, *given = shlex.split(example)
    assert program == "embex"
    if [name, *given[:1]] == ["data", "prepare"]:
        name, given = "prepare", given[1:]
    command = importlib.import_module(f"embedding_expansion.app.{name}")

    def parse(*of_parser: Any) -> None:
        arguments.parse(*of_parser)
        raise _Parsed

    monkeypatch.setattr(command, "parse", parse)
    with pytest.raises(_Parsed):
        command.run(given)


def test_every_command_has_examples_of_itself() -> None:
    assert EXAMPLES.keys() == COMMANDS.keys() | SUBCOMMANDS.keys()
    assert all(
        line.startswith(f"embex {name} ") or line == f"embex {name}"
        for name, lines in EXAMPLES.items()
        for line in lines
    )


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_begins_with_one_line_and_has_the_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(f"usage: embex {command}")
    assert not second
    for example in EXAMPLES[command]:
        assert f"  {example}" in rest
    assert not [line for line in rest if "null" in line or "type: " in line]


def test_the_common_options_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    order = ["--data.name NAME", "--model.backbone BACKBONE", "--loss LOSS", "--steps STEPS", "--data.workers WORKERS"]
    places = [text.index(option) for option in order]
    assert places == sorted(places)
    assert "--data: name of a data set" in text
    assert "random seed (default: 0)" in text


def test_commands_are_listed_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert text.index("use a model:") < text.index("  embed ") < text.index("keep and search a collection:")
