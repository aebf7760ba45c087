"""Completion of commands, options and values in bash, zsh and fish.

The shell asks the program itself, through argcomplete: `complete` answers with the arguments of the command,
so that there is no second list of options. Nothing heavy is imported for that.
"""

from __future__ import annotations

import argparse
import functools
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NoReturn

from embedding_expansion.app.names import SHORT, loss_parameters
from embedding_expansion.data.sources import SOURCES
from embedding_expansion.methods import METHODS
from embedding_expansion.model.backbone_names import OF_VECTORS, backbone_names
from embedding_expansion.runs.options import MINERS


def complete(commands: Iterable[str], run_command: Callable[[str], object]) -> NoReturn:
    """Answers the shell and ends the process.

    Args:
        commands: the names of the commands.
        run_command: runs a command, which calls `answer` with its parser instead of parsing.
    """
    from argcomplete.lexers import split_line

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words = split_line(line, point)[3]  # the whole words before the one that is completed
    if len(words) < 2:
        known = argparse.ArgumentParser(add_help=False)
        known.add_argument("command", choices=list(commands))
        answer(known)
    elif words[1] in commands:
        os.environ["_ARGCOMPLETE"] = "2"  # the arguments begin behind the command
        run_command(words[1])
    os._exit(0)


def answer(parser: argparse.ArgumentParser) -> None:
    """Prints what can follow on the line: names and files, and options after a dash or where there are only those."""
    from argcomplete.finders import CompletionFinder

    plain = _plain(parser)
    takes_words = any(not action.option_strings for action in plain._actions)
    CompletionFinder()(plain, always_complete_options=not takes_words)


def _plain(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A parser with the same arguments that checks no values, since those of a line that is being typed are half."""
    plain = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    short = {full: name for name, full in SHORT.items()}
    for action in parser._actions:
        names = [*action.option_strings, *(short[name] for name in action.option_strings if name in short)]
        kind: dict[str, Any] = {"action": "store_true"} if action.nargs == 0 else {"nargs": action.nargs}
        made = plain.add_argument(*(names or [action.dest]), help=action.help, **kind)
        made.completer = functools.partial(_values, action)  # type: ignore[attr-defined]
    return plain


def _values(argument: argparse.Action, *, prefix: str, **_: object) -> list[str]:
    """The names that an argument takes, by its type or by its name, or else files."""
    from argcomplete.completers import FilesCompleter

    if fixed := [*(argument.choices or _choices(getattr(argument, "_typehint", None)))]:
        return [value for value in fixed if value.startswith(prefix)]
    if argument.dest == "model.backbone":
        of_timm = [f"timm/{name}" for name in backbone_names("timm")] if prefix.startswith("timm/") else ["timm/"]
        found: Iterable[str] = ("conv4", *OF_VECTORS, *backbone_names("torchvision"), *of_timm)
        return [name for name in found if name.startswith(prefix)]
    known: dict[str, Iterable[str]] = {"data": SOURCES, "data.name": SOURCES, "miner.name": MINERS}
    known |= {"loss": loss_parameters(), "method": METHODS}
    names = known.get(argument.dest, ())
    return [name for name in names if name.startswith(prefix)] + list(FilesCompleter()(prefix))


def _choices(kind: Any) -> Iterator[str]:
    """The values of a type that are words."""
    if kind is bool:
        yield from ("true", "false")
    elif typing.get_origin(kind) is Literal:
        yield from map(str, typing.get_args(kind))
    else:
        for part in typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ():
            yield from _choices(part)
