"""The files of a model, stored with an index, so that a server needs only the location of the index."""

from __future__ import annotations

from pathlib import Path

from embedding_expansion.checks import validates
from embedding_expansion.errors import InvalidInput
from embedding_expansion.files import replacing
from embedding_expansion.retrieval.index.items import encoded
from embedding_expansion.retrieval.index.store import Store

PIECE = 2**24  # bytes that are read at a time


class ModelFiles:
    """Stores files in an index and copies them out; their content is not interpreted."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @validates
    def put(self, file: Path, name: str | None = None) -> None:
        """Stores a file; a file of the same name is replaced atomically.

        Args:
            file: the file to read.
            name: the name to store it under; by default the name of the file.
        """
        target = _checked(file.name if name is None else name)
        with self._store.writing(), file.open("rb") as content:
            self._store.put_file(target, iter(lambda: content.read(PIECE), b""))

    def sizes(self) -> dict[str, int]:
        """The names of the files and their sizes in bytes."""
        return self._store.files()

    @validates
    def fetch(self, name: str, target: Path) -> None:
        """Copies one of the files to a path outside the index, atomically.

        Raises:
            InvalidInput: the index has no such file.
        """
        kept = self.sizes()
        if name not in kept:
            raise InvalidInput(f"the index has no file {name!r}; pass one of its files: {', '.join(kept) or 'none'}")
        with replacing(target) as partial, partial.open("wb") as file:
            file.writelines(self._store.file(name))


@validates
def _checked(name: str) -> str:
    """Checks that a name is a plain file name, which cannot lead out of its folder."""
    if name in ("", ".", "..") or any(part in name for part in ("/", "\\", "\0", ".partial-")):
        raise InvalidInput(f"name is {name!r}; pass a file's name without folders")
    encoded(name, "name")
    return name
