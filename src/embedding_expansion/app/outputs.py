"""Checks the output files of a command before it does any work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embedding_expansion.errors import InvalidInput


@contextmanager
def outputs(**places: str | None) -> Iterator[None]:
    """Checks that the files can be written. If one of them is stdout, printed output goes to stderr.

    Args:
        places: option -> file, or None if the option is not given.

    Raises:
        RunError: a file cannot be written.
        InvalidInput: two options name the same file.
    """
    from embedding_expansion.files import file_target

    taken, is_stdout = dict[Path, str](), False
    for option, place in places.items():
        if place is None:
            continue
        target = file_target(Path(place))
        is_stdout |= target.descriptor == 1
        if target.path in taken and not target.is_stream:
            raise InvalidInput(f"--{taken[target.path]} and --{option} name the same file, {place}; pass two files")
        taken[target.path] = option
    with contextlib.redirect_stdout(sys.stderr) if is_stdout else contextlib.nullcontext():
        yield
