"""Parsing a command's arguments, with every mistake as one sentence."""

from __future__ import annotations

import re
from itertools import pairwise

import jsonargparse

from embedding_expansion.errors import InvalidInput
from embedding_expansion.runs.option_errors import sentence


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
