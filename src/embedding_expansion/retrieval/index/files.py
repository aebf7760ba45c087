"""The files of a model, kept with an index, so that its location is all that a server needs."""

from __future__ import annotations

from pathlib import Path

from embedding_expansion.core.validation import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.files import replacing
from embedding_expansion.retrieval.index.items import encoded
from embedding_expansion.retrieval.index.store import Store

PIECE = 2**24  # bytes that are held at a time


class ModelFiles:
    """Puts files in and gets them out; what they hold is not looked at."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @validates
    def put(self, file: Path, name: str | None = None) -> None:
        """Keeps a file; one of the same name is replaced in one step.

        Args:
            file: to be read.
            name: under which it is kept; its own by default.
        """
        target = _checked(file.name if name is None else name)
        with self._store.writing(), file.open("rb") as content:
            self._store.put_file(target, iter(lambda: content.read(PIECE), b""))

    def sizes(self) -> dict[str, int]:
        """The names of the files and their sizes in bytes."""
        return self._store.files()

    @validates
    def fetch(self, name: str, target: Path) -> None:
        """Writes one of the files to a place outside; nobody sees half of it.

        Raises:
            InvalidInput: there is no such file.
        """
        kept = self.sizes()
        if name not in kept:
            raise InvalidInput(f"the index holds no file {name!r}; it holds {', '.join(kept) or 'none'}")
        with replacing(target) as partial, partial.open("wb") as file:
            file.writelines(self._store.file(name))


@validates
def _checked(name: str) -> str:
    """A name that a folder can hold, and no way out of it."""
    if name in ("", ".", "..") or any(part in name for part in ("/", "\\", "\0", ".partial-")):
        raise InvalidInput(f"name is {name!r}; pass a file's name without folders")
    encoded(name, "name")
    return name
