"""Parses the arguments of a command and reports every mistake in one sentence."""

from __future__ import annotations

import os
import re
from itertools import pairwise

import jsonargparse

from embedding_expansion.app.examples import EXAMPLES
from embedding_expansion.errors import InvalidInput
from embedding_expansion.runs.help import Help, with_examples
from embedding_expansion.runs.option_errors import sentence

#: Set by a shell that asks for completions.
COMPLETING = "_ARGCOMPLETE"


def command(name: str, description: str) -> jsonargparse.ArgumentParser:
    """The parser of a command, without its arguments; its help has the examples of `examples.py`."""
    return jsonargparse.ArgumentParser(
        prog=f"embex {name}",
        exit_on_error=False,
        allow_abbrev=False,
        description=with_examples(description, EXAMPLES[name]),
        formatter_class=Help,
    )


def add_data(options: jsonargparse.ArgumentParser, default: str) -> None:
    """Adds the options that name another data set; `default` says which one is taken without them."""
    options.add_argument(
        "--data", type=str | None, default=None, help=f"another data set, by name or path; default: {default}"
    )
    options.add_argument("--root", type=str | None, default=None, help="folder that contains the data set")
    options.add_argument("--part", type=bool | None, default=None, help="accept an incomplete data set")


def parse(parser: jsonargparse.ArgumentParser, arguments: list[str]) -> jsonargparse.Namespace:
    """Parses arguments. `--help` prints the help text and exits, and a shell that completes a line gets an answer.

    Raises:
        InvalidInput: an argument is unknown, missing or of the wrong type.
    """
    if COMPLETING in os.environ:
        from embedding_expansion.app.shell import answer

        answer(parser)
    try:
        return parser.parse_args(arguments)
    except jsonargparse.ArgumentError as error:
        reason = sentence(str(error), list(parser.get_defaults().keys()))
        raise InvalidInput(f"{_file_of(arguments)}: {reason}" if _IN_FILE.match(reason) else reason) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{_file_of(arguments)} is not a text file ({error.reason}); pass a YAML file") from error


_IN_FILE = re.compile("Problems parsing config|Unexpected config")


def _file_of(arguments: list[str]) -> str:
    """The option --config and its file, as given in the arguments."""
    following = {first: second for first, second in pairwise(arguments) if first == "--config"}
    joined = [argument for argument in arguments if argument.startswith("--config=")]
    return " ".join(joined or [*following.keys(), *following.values()])
