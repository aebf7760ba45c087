"""Parsing a command's arguments, with every mistake as one sentence."""

from __future__ import annotations

import difflib
import re
from itertools import pairwise

import jsonargparse

from embedding_expansion.errors import InvalidInput


def parse(parser: jsonargparse.ArgumentParser, arguments: list[str]) -> jsonargparse.Namespace:
    """Parses arguments; `--help` prints and exits.

    Raises:
        InvalidInput: an argument that is unknown, missing or of the wrong kind, in one sentence.
    """
    try:
        return parser.parse_args(arguments)
    except jsonargparse.ArgumentError as error:
        said = sentence(str(error), list(parser.get_defaults().keys()))
        raise InvalidInput(f"{_file_of(arguments)}: {said}" if _IN_FILE.match(said) else said) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{_file_of(arguments)} is no text ({error.reason}); pass a YAML file") from error


_IN_FILE = re.compile("Problems parsing config|Unexpected config")


def _file_of(arguments: list[str]) -> str:
    """The option --config, as far as the arguments name its file."""
    following = {first: second for first, second in pairwise(arguments) if first == "--config"}
    joined = [argument for argument in arguments if argument.startswith("--config=")]
    return " ".join(joined or [*following.keys(), *following.values()])


def sentence(message: str, known: list[str]) -> str:
    """What jsonargparse says in many lines, in one: the option, what was given, what may be; with the nearest name.

    Args:
        message: of the parser's error.
        known: names of the options, without dashes.
    """
    line = " ".join(message.replace("Parser key ", "").split())
    if unknown := re.search(r"nrecognized arguments: (\S+)|Option '([\w.]+)' is not accepted", line):
        name = (unknown[1] or unknown[2]).removeprefix("--").split("=")[0]
        if unknown[1] and not unknown[1].startswith("-"):
            return f"there is no argument {unknown[1]!r}; --help lists all that there are"
        return f"there is no option {unknown[1] or unknown[2]!r}; {_hint(name, known, '--')}--help lists them all"
    if wrong := re.search(
        r'^"([\w.]+)": .*?(?:Expected an? (.*?)\.|Subtypes: \[(.*?)\] .*) (?:Got|Given) value: (.*)', line
    ):
        option, given = wrong[1], wrong[4]
        wanted, choices = _wanted(wrong[2] or wrong[3])
        return f"--{option} is {given!r}; {_hint(given, choices)}pass {wanted}"
    return line.replace('"config": ', "--config: ")


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list such as [1, 2]",
    "dict": "entries such as {name: triplet}",
}


def _wanted(types: str) -> tuple[str, list[str]]:
    """Types in words, and the names among them."""
    choices = re.findall(r"'([\w.]+)'(?!>)", types)
    kinds = re.findall(r"<class '(\w+)'>|\b(list|dict)\b", types)
    words = [_WORDS[kind] for pair in kinds for kind in pair if kind in _WORDS]
    return " or ".join(dict.fromkeys([*words, *choices])), choices


def _hint(given: str, known: list[str], dashes: str = "") -> str:
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean {dashes}{near[0]}? " if near else ""
