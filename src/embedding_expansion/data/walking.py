"""Looks for images in folders: the one walk that data sets, indexes and everything else share. Needs no torch."""

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

#: What file managers, archivers and file systems leave beside a user's files, in small letters.
_LITTER = frozenset({
    "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found",
    "thumbs.db", "ehthumbs.db", "desktop.ini",
})  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
#: How many names or endings a line lists.
_SHOWN = 8

#: Device and inode: the same for a folder however it is reached.
_Identity: TypeAlias = tuple[int, int]


@dataclass
class LeftOut:
    """What a walk has passed over, hidden files and folders apart. As text it is a line, empty if there is nothing.

    Attributes:
        endings: how many files there are of each ending that is none of an image, in small letters.
        special: how many pipes, sockets and devices there are.
        empty: the folders in a folder that was named in which no image lies, at any depth.
        loops: links to a folder that holds them. They are not followed.
        again: folder -> under which path it was looked through, for each other folder that a link reached once more.
            Its images are not taken again.
        broken_links: links that lead nowhere. One that has an image's ending counts as an image, which cannot be read.
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
    """What a walk has found.

    Attributes:
        images: of each folder that was named, the images in it, in the order of their paths.
        left_out: what is there besides.
    """

    images: list[list[Path]]
    left_out: LeftOut


def walk(folders: Sequence[Path]) -> Walked:
    """Finds the images in folders, at any depth.

    An image is a file whose ending is one of `IMAGE_SUFFIXES`. Hidden files and folders, and what systems leave behind
    (`Thumbs.db`, `__MACOSX` and the like), are left out. Links are followed, but each folder is looked through once,
    where it lies itself if that is in one of `folders`, and no link is followed to a folder that holds it. So loops
    are cut, and no link puts the images of one class into another.

    Args:
        folders: where to look. One that lies in another one is looked through on behalf of whichever comes first.

    Raises:
        DataError: a folder cannot be read; all such folders are named.
    """
    walker = _Walker(folders)
    walker.walk()
    return Walked([sorted(images) for images in walker.images], walker.left_out)


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is passed over, as hidden or as left behind by a system."""
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
        f"readable, or move {'them' if many else 'it'} elsewhere, since the images in there would be missed"
    )


def listing(names: Iterable[str]) -> str:
    """The first few of some names, and how many there are besides, in a line whatever the names hold."""
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
    """A folder from which a walk sets out: one that was named, or one that a link leads to.

    Attributes:
        number: of the named folder on whose behalf.
        path: of the folder.
        above: the folders that hold a folder which was passed on the way to the link. A link to one of them leads back.
    """

    number: int
    path: Path
    above: frozenset[_Identity]


class _Walker:
    """A walk under way: first all that is reached without links, then what links lead to, the shortest way first."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders, self.images, self.left_out = folders, [list[Path]() for _ in folders], LeftOut()
        self._first_level: list[list[Path]] = [[] for _ in folders]
        self._seen: dict[_Identity, Path] = {}
        self._links: deque[_Root] = deque()
        self._problems: dict[Path, OSError] = {}

    def walk(self) -> None:
        # A folder that is named by a link and by its own name keeps the latter.
        for number in sorted(range(len(self.folders)), key=lambda number: self.folders[number].is_symlink()):
            self._look_through(_Root(number, self.folders[number], frozenset()))
        while self._links:
            self._look_through(self._links.popleft())
        if self._problems:
            raise unreadable(self._problems)
        self._find_empty()

    def _look_through(self, root: _Root) -> None:
        """Lists a folder and all below it, but none that is seen; links to folders are put aside."""
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
        elif os.path.abspath(folder) != os.path.abspath(first):  # the very path is no surprise: it was named twice
            self.left_out.again[folder] = first

    def _is_folder(self, number: int, path: Path, entry: os.DirEntry[str]) -> bool:
        """Whether an entry of a folder, or what it is a link to, is a folder; takes down what is none."""
        try:
            mode = os.stat(path).st_mode if entry.is_symlink() else None
            is_folder = entry.is_dir() if mode is None else stat.S_ISDIR(mode)
            is_file = entry.is_file() if mode is None else stat.S_ISREG(mode)
        except OSError as error:
            self._take_down_broken(number, path, error)
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

    def _take_down_broken(self, number: int, path: Path, error: OSError) -> None:
        if error.errno not in _GONE:
            self._problems[path] = error
        elif is_image(path):  # whoever opens it names it
            self.images[number].append(path)
        else:
            self.left_out.broken_links.append(path)

    def _find_empty(self) -> None:
        not_looked_into = {*self.left_out.loops, *self.left_out.again}
        for top, images, inside in zip(self.folders, self.images, self._first_level, strict=True):
            full = {first_part(path, top) for path in images}
            self.left_out.empty += [p for p in inside if p.name not in full and p not in not_looked_into]


def _above(path: Path) -> frozenset[_Identity]:
    """The folders that hold a folder."""
    found = set[_Identity]()
    for parent in Path(os.path.realpath(path)).parents:
        with suppress(OSError):  # then no link can lead into it either
            found.add(_identity(parent))
    return frozenset(found)


def first_part(path: PurePath, top: PurePath) -> str:
    """The name of what lies in a folder and holds, or is, this path."""
    return path.parts[len(top.parts)]


def _identity(path: Path) -> _Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino
