"""The files that a command is to write: looked at before any work is done."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedding_expansion.errors import InvalidInput


@contextmanager
def outputs(**places: str | None) -> Iterator[None]:
    """Makes sure that the files can be written; and where one of them is stdout, what is printed goes to stderr.

    Args:
        places: the options, each with its file, or None where it is not given.

    Raises:
        RunError: one of them cannot be written.
        InvalidInput: two of them are one file.
    """
    from embedding_expansion.files import file_target

    taken, is_stdout = dict[Path, str](), False
    for option, place in places.items():
        if place is None:
            continue
        target = file_target(Path(place))
        is_stdout |= target.descriptor == 1
        if target.path in taken and not target.is_stream:
            raise InvalidInput(f"--{taken[target.path]} and --{option} are one file, {place}; name two")
        taken[target.path] = option
    with contextlib.redirect_stdout(sys.stderr) if is_stdout else contextlib.nullcontext():
        yield
