"""The errors of this package, and its one warning.

    EmbeddingExpansionError
    ├── InvalidInput  (ValueError)   a tensor, a number or an option that cannot be used
    │   └── UnknownName              an unknown name; the message suggests the most similar known one
    ├── InvalidType   (TypeError)    an object of the wrong kind
    ├── DataError     (ValueError)   a data set that is missing, incomplete or broken
    ├── RunError      (ValueError)   a run folder that cannot be read, resumed or written
    ├── StoreError    (ValueError)   an index that cannot be opened, read or written
    └── ResourceError (RuntimeError) memory that ran out, a process that was killed or no longer answers

Every message says what was given, what was expected and what to do. The command line prints it as one line and exits
with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EmbeddingExpansionError(Exception):
    """The base of every error that this package raises on purpose."""


class InvalidInput(EmbeddingExpansionError, ValueError):
    """A tensor, a number or an option that cannot be used."""


class InvalidType(EmbeddingExpansionError, TypeError):
    """An object of the wrong kind."""


class DataError(EmbeddingExpansionError, ValueError):
    """A data set that is missing, incomplete or broken."""


class RunError(EmbeddingExpansionError, ValueError):
    """A run folder that cannot be read, resumed or written."""


class StoreError(EmbeddingExpansionError, ValueError):
    """An index that cannot be opened, read or written."""


class ResourceError(EmbeddingExpansionError, RuntimeError):
    """Memory ran out, or a process that takes part in the work was killed or no longer answers."""


class UnknownName(InvalidInput):
    """An unknown name. The message suggests the most similar known name.

    Args:
        kind: what the name should refer to, as a noun ("loss", "data set").
        given: the name that was given.
        known: the names that exist.
    """

    def __init__(self, kind: str, given: object, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"there is no {kind} named {given!r}; {hint}known are {', '.join(names)}")


class DegenerateBatchWarning(UserWarning):
    """Warns of a batch from which a loss learns little or nothing: empty, of one class, or without a positive pair."""
