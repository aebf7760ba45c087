"""Finds images in folders; data sets, indexes and commands all use this walk. Needs no torch."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TypeAlias

from embedding_expansion.data.decoding import IMAGE_SUFFIXES, NOT_DECODED_HERE
from embedding_expansion.errors import DataError

#: Files and folders that file managers, archivers and file systems create beside a user's files, in lower case.
_LITTER = frozenset({
    "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found",
    "thumbs.db", "ehthumbs.db", "desktop.ini",
})  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
#: How many names or endings to list in a line.
_SHOWN = 8

#: Device and inode, which identify a folder by whatever path it is reached.
_Identity: TypeAlias = tuple[int, int]


@dataclass
class LeftOut:
    """What a walk skipped, apart from hidden files and folders. As text it is one line, empty if nothing was skipped.

    Attributes:
        endings: the number of files that are not images, by their ending in lower case.
        special: the number of pipes, sockets and devices.
        empty: the subfolders of the given folders without an image at any depth.
        loops: links to a folder that contains them. They are not followed.
        again: folders that a link reached a second time, with the path under which each was searched. Their images are
            not included again.
        broken_links: links to nothing. A broken link with the ending of an image counts as an unreadable image instead.
    """

    endings: Counter[str] = field(default_factory=Counter)
    special: int = 0
    empty: list[Path] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)
    again: dict[Path, Path] = field(default_factory=dict)
    broken_links: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        again = [f"{path} (is {first})" for path, first in self.again.items()]
        parts = {
            "ignored": self._ignored(),
            "folders without images": listing(map(str, self.empty)),
            "links that lead back up": listing(map(str, self.loops)),
            "folders reached twice": listing(again),
            "broken links": listing(map(str, self.broken_links)),
        }
        return "; ".join(f"{what}: {names}" for what, names in parts.items() if names)

    def _ignored(self) -> str:
        counts = Counter[str]()
        for ending, count in self.endings.items():
            counts[_shown(ending)] += count
        if self.special:
            counts["pipes and devices"] = self.special
        most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return listing(f"{ending} {count:,}" for ending, count in most)


@dataclass(frozen=True)
class Walked:
    """The result of a walk.

    Attributes:
        images: for each given folder the images in it, sorted by path.
        left_out: what was skipped.
    """

    images: list[list[Path]]
    left_out: LeftOut


def walk(folders: Sequence[Path]) -> Walked:
    """Finds the images in folders, at any depth.

    An image is a file whose ending is one of `IMAGE_SUFFIXES`. Hidden files and folders, and what systems create
    (`Thumbs.db`, `__MACOSX` and the like), are skipped. Links are followed, but each folder is searched only once,
    under its real path if that is in one of `folders`, and a link to a folder that contains the link is not followed.
    Therefore the walk ends, and no link puts the images of one class into another.

    Args:
        folders: the folders to search. If one lies within another, it belongs to the one that comes first.

    Raises:
        DataError: folders cannot be read. The message names them.
    """
    walker = _Walker(folders)
    walker.walk()
    return Walked([sorted(images) for images in walker.images], walker.left_out)


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is skipped, because it is hidden or was created by a system."""
    return name.startswith(".") or name.lower() in _LITTER


def is_image(name: str | os.PathLike[str]) -> bool:
    """Whether a file counts as an image, by its ending."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def unreadable(problems: dict[Path, OSError]) -> DataError:
    """The error for folders that cannot be read."""
    named = listing(f"{path} ({error.strerror or error})" for path, error in problems.items())
    many = len(problems) > 1
    return DataError(
        f"{len(problems)} folder{'s' if many else ''} cannot be read: {named}; make {'them' if many else 'it'} "
        f"readable, or move {'them' if many else 'it'} elsewhere, since images in {'them' if many else 'it'} would be "
        "missed"
    )


def listing(names: Iterable[str]) -> str:
    """Lists the first few names and the number of the others in one line; control characters become blanks."""
    given = [_CONTROL.sub(" ", name) for name in names]
    more = len(given) - _SHOWN
    return ", ".join(given[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _shown(ending: str) -> str:
    if not ending:
        return "without an ending"
    if ending in NOT_DECODED_HERE:
        return f"{ending} (which the Pillow installed here does not decode)"
    return ending if ending[1:].isalnum() and len(ending) <= 10 else "other endings"


@dataclass(frozen=True)
class _Root:
    """A folder at which a walk starts: one of the given folders, or one to which a link leads.

    Attributes:
        number: the index of the given folder to which its images belong.
        path: of the folder.
        above: the folders that contain it, by its path and by the links on the way. A link to one of them is a loop.
    """

    number: int
    path: Path
    above: frozenset[_Identity]


class _Walker:
    """A walk in progress: first the folders that are reached without links, then those behind links, breadth first."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders, self.images, self.left_out = folders, [list[Path]() for _ in folders], LeftOut()
        self._first_level: list[list[Path]] = [[] for _ in folders]
        self._seen: dict[_Identity, Path] = {}
        self._links: deque[_Root] = deque()
        self._problems: dict[Path, OSError] = {}

    def walk(self) -> None:
        # Links last, so that a folder that is given by a link and by its real path keeps the latter.
        for number in sorted(range(len(self.folders)), key=lambda number: self.folders[number].is_symlink()):
            self._search(_Root(number, self.folders[number], frozenset()))
        while self._links:
            self._search(self._links.popleft())
        if self._problems:
            raise unreadable(self._problems)
        self._find_empty()

    def _search(self, root: _Root) -> None:
        """Searches a folder and its subfolders that were not searched before, and queues links to folders."""
        waiting, above = [root.path], root.above | _above(root.path)
        while waiting:
            folder = waiting.pop()
            try:
                identity = _identity(folder)
                if identity in root.above:
                    self.left_out.loops.append(folder)
                    continue
                if identity in self._seen:
                    self._note_again(folder, self._seen[identity])
                    continue
                self._seen[identity] = folder
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                self._problems[folder] = error
                continue
            for entry in entries:
                path = folder / entry.name
                if is_litter(entry.name) or not self._is_folder(root.number, path, entry):
                    continue
                if path.parent == self.folders[root.number]:
                    self._first_level[root.number].append(path)
                if entry.is_symlink():
                    self._links.append(_Root(root.number, path, above))
                else:
                    waiting.append(path)

    def _note_again(self, folder: Path, first: Path) -> None:
        if first in folder.parents:
            self.left_out.loops.append(folder)
        elif os.path.abspath(folder) != os.path.abspath(first):  # equal paths were simply given twice
            self.left_out.again[folder] = first

    def _is_folder(self, number: int, path: Path, entry: os.DirEntry[str]) -> bool:
        """Whether an entry of a folder, or the target of a link, is a folder; records any other entry."""
        try:
            mode = os.stat(path).st_mode if entry.is_symlink() else None
            is_folder = entry.is_dir() if mode is None else stat.S_ISDIR(mode)
            is_file = entry.is_file() if mode is None else stat.S_ISREG(mode)
        except OSError as error:
            self._record_broken(number, path, error)
            return False
        if is_folder:
            return True
        if not is_file:
            self.left_out.special += 1
        elif is_image(path):
            self.images[number].append(path)
        else:
            self.left_out.endings[path.suffix.lower()] += 1
        return False

    def _record_broken(self, number: int, path: Path, error: OSError) -> None:
        if error.errno not in _GONE:
            self._problems[path] = error
        elif is_image(path):  # opening it reports the error
            self.images[number].append(path)
        else:
            self.left_out.broken_links.append(path)

    def _find_empty(self) -> None:
        not_looked_into = {*self.left_out.loops, *self.left_out.again}
        for top, images, inside in zip(self.folders, self.images, self._first_level, strict=True):
            full = {first_part(path, top) for path in images}
            self.left_out.empty += [p for p in inside if p.name not in full and p not in not_looked_into]


def _above(path: Path) -> frozenset[_Identity]:
    """The folders that contain a folder."""
    found = set[_Identity]()
    for parent in Path(os.path.realpath(path)).parents:
        with suppress(OSError):  # then no link can lead into it either
            found.add(_identity(parent))
    return frozenset(found)


def first_part(path: PurePath, top: PurePath) -> str:
    """The first part of a path below a folder."""
    return path.parts[len(top.parts)]


def _identity(path: Path) -> _Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino
