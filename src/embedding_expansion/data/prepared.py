"""A prepared set: a folder of images that were shrunk once, and the manifest that says from what. Needs no torch.

The folder mirrors the tree of the originals, so that other programs can read it as well. A file that was encoded anew
is a JPEG; `.jpg` is appended to its name if the original was none. `prepared.json` lists the images of each split with
their classes, marks and originals. Until all images are there it says that it is not complete, and the folder is
refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePath
from typing import Any

from embedding_expansion.errors import DataError, RunError
from embedding_expansion.files import read_json, write_atomically

#: The name of the manifest in the folder.
MANIFEST = "prepared.json"
KIND, VERSION = "prepared images of embedding-expansion", 1


@dataclass(frozen=True)
class PreparedSplit:
    """The images of one split, a column each; the names are relative paths with slashes.

    Attributes:
        class_names: one name per class, in the order of the class numbers.
        labels: the class number of each image.
        originals: the original of each image, below the folder of the originals.
        files: the shrunk file of each image, below the folder of the set.
        bytes: the size of each original.
        times: the modification time of each original in nanoseconds; the shrunk file has the same.
        is_query: whether each image is a query, or None if the set has no queries.
        is_gallery: whether each image is in the gallery, or None.
    """

    class_names: list[str]
    labels: list[int]
    originals: list[str]
    files: list[str]
    bytes: list[int]
    times: list[int]
    is_query: list[bool] | None = None
    is_gallery: list[bool] | None = None


@dataclass(frozen=True)
class Prepared:
    """The content of a manifest.

    Attributes:
        folder: the folder of the set.
        package: the version of this package that wrote it.
        data: the name or the absolute path of the data set that was shrunk.
        base: the folder of the originals.
        size: the short side of the images in pixels. Images whose short side was no longer were copied as they were.
        quality: of the JPEG files.
        name: the name of the data set in outputs.
        recall_at: its K of Recall@K.
        transform: the name of its training transform.
        train: the images to train on.
        test: the images to test on.
        broken: the originals that could not be decoded and are not in the set, with the reason.
    """

    folder: Path
    package: str
    data: str
    base: str
    size: int
    quality: int
    name: str
    recall_at: list[int]
    transform: str
    train: PreparedSplit
    test: PreparedSplit
    broken: dict[str, str]

    @property
    def described(self) -> str:
        """From what it was made and how, in one line."""
        return f"shrunk to a short side of {self.size} pixels, JPEG quality {self.quality}, from {self.data}"

    def images(self) -> Iterator[tuple[str, str]]:
        """The original and the shrunk file of each image, sorted by the original."""
        pairs = (pair for split in (self.train, self.test) for pair in zip(split.originals, split.files, strict=True))
        yield from sorted(pairs)

    def stamps(self) -> dict[str, tuple[int, int]]:
        """The size and time that each original had."""
        return {
            name: (size, time)
            for split in (self.train, self.test)
            for name, size, time in zip(split.originals, split.bytes, split.times, strict=True)
        }

    def changes(self) -> str:
        """What has happened to the originals since, as a sentence; empty if nothing has, or if all are out of reach.

        Originals that were added are not looked for. Preparing the set again finds them, too.
        """
        changed, gone, stamps = list[str](), list[str](), self.stamps()
        for name, stamp in stamps.items():
            try:
                found = os.stat(os.path.join(self.base, name))
            except OSError:
                gone.append(name)
            else:
                changed += [name] if (found.st_size, found.st_mtime_ns) != stamp else []
        gone = [] if len(gone) == len(stamps) else gone
        if not changed and not gone:
            return ""
        counts = [f"{len(names):,} {what}" for names, what in ((changed, "changed"), (gone, "removed")) if names]
        return (
            f"of the {len(stamps):,} originals of {self.folder}, {' and '.join(counts)} since they were shrunk (the "
            f"first is {(changed + gone)[0]}); run embex data prepare again"
        )

    def write(self) -> None:
        """Writes the manifest of a complete set."""
        content = {"kind": KIND, "version": VERSION, "complete": True} | asdict(self)
        del content["folder"]
        write_manifest(self.folder, content)

    @classmethod
    def read(cls, folder: Path) -> Prepared:
        """Reads the manifest of a folder.

        Raises:
            DataError: the set is not complete, or the manifest cannot be read, is broken or is of another version.
        """
        content = read_manifest(folder)
        if not content["complete"]:
            raise DataError(
                f"{folder} is not complete, because its preparation was stopped; run embex data prepare "
                f"{content['data']} --size {content['size']} --out {folder} again, which goes on where it stopped"
            )
        try:
            given = {field.name: content[field.name] for field in fields(cls) if field.name != "folder"}
            splits = {side: _checked(PreparedSplit(**content[side])) for side in ("train", "test")}
            return cls(folder=folder, **(given | splits))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{folder / MANIFEST} is broken ({error}); {_remedy(folder)}") from error


def is_prepared(folder: Path) -> bool:
    """Whether a folder is a prepared set, complete or not."""
    return os.path.isfile(folder / MANIFEST)


def origin(data: str) -> str:
    """The data set from which a prepared set was made; other data sets are returned as they are."""
    folder = Path(data).expanduser()
    return str(read_manifest(folder)["data"]) if is_prepared(folder) else data


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of a manifest, of a set that may not be complete.

    Raises:
        DataError: it cannot be read, or is that of something else or of another version.
    """
    try:
        content = read_json(folder / MANIFEST, _remedy(folder))
    except RunError as error:
        raise DataError(str(error)) from error
    if content.get("kind") != KIND or content.get("version") != VERSION:
        raise DataError(
            f"{folder / MANIFEST} is not a manifest that this version of the package reads (kind {KIND!r}, version "
            f"{VERSION}); {_remedy(folder)}"
        )
    kinds = {"complete": bool, "data": str, "size": int, "quality": int}
    if odd := [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]:
        raise DataError(f"{folder / MANIFEST} lacks {', '.join(odd)}; {_remedy(folder)}")
    return content


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Writes a manifest atomically. Names that are not UTF-8 are escaped."""
    text = json.dumps(content, separators=(",", ":")) + "\n"
    write_atomically(folder / MANIFEST, lambda partial: partial.write_text(text, encoding="utf-8"))


def _remedy(folder: Path) -> str:
    return f"remove {folder}, and prepare the images again with embex data prepare"


def _checked(split: PreparedSplit) -> PreparedSplit:
    """Refuses columns of unequal length, and names that lead out of the folder.

    Raises:
        ValueError: there are such.
    """
    columns = (split.labels, split.originals, split.files, split.bytes, split.times)
    if len({len(column) for column in columns}) != 1:
        raise ValueError("its columns have different lengths")
    for name in (*split.originals, *split.files):
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise ValueError(f"{name!r} leads out of the folder")
    return split
