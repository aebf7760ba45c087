"""Unpacks an archive so that nothing lands outside the folder, and nothing half-unpacked stays in its place."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from embedding_expansion.errors import DataError


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar(.gz) into a folder.

    The archive is unpacked to a temporary folder beside, and its first-level entries are moved over once all of them
    are there. An entry of that name that is already in the folder is replaced.

    Raises:
        DataError: if the archive is broken, or has a member whose path or link leads out of the folder, a link in a
            .zip, or a device. A .tar member with an absolute path is unpacked below the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".unpacking-"))
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, temporary)
        else:
            if not hasattr(tarfile, "data_filter"):
                raise DataError(f"{archive} was not unpacked: that takes Python 3.11.4 or later; unpack it by hand")
            with tarfile.open(archive) as content:
                content.extractall(temporary, filter="data")  # refuses "..", links out and devices, strips "/"
        for entry in sorted(temporary.iterdir()):
            _replace(entry, folder / entry.name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{archive} was not unpacked: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            path = PurePosixPath(member.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"{archive} was not unpacked: its member {member.filename!r} leads out of the folder")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DataError(f"{archive} was not unpacked: its member {member.filename!r} is a link")
        content.extractall(folder)


def _replace(entry: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    os.replace(entry, target)
