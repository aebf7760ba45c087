"""Downloads data sets: resumes interrupted downloads, verifies checksums, and unpacks archives safely."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from embedding_expansion.data.sources import SOURCES, Archive, Source, search_folders
from embedding_expansion.errors import DataError, UnknownName

_BLOCK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte


def download(name: str, root: Path | None = None, *, progress: bool = True) -> Path:
    """Downloads and unpacks the archives of a named set.

    An archive that exists and has the right checksum is not downloaded again. Archives are removed once unpacked.

    Args:
        name: of the set, as in `datasets.DATASETS`.
        root: the folder to unpack into; by default the first folder of `search_folders`.
        progress: whether to show a progress bar on stderr.

    Returns:
        The root, in which `open_dataset(name, root=...)` finds the set.

    Raises:
        UnknownName: there is no such set.
        DataError: the set cannot be downloaded (the message says how to get it), the connection fails (the next call
            resumes the download), or a file has the wrong checksum (it is removed).
    """
    if name not in SOURCES:
        raise UnknownName("data set", name, SOURCES)
    return fetch_source(name, SOURCES[name], search_folders(root)[0], progress=progress)


def fetch_source(name: str, source: Source, root: Path, *, progress: bool = True) -> Path:
    """Downloads and unpacks the archives of a source, as `download` does.

    Raises:
        DataError: as in `download`.
    """
    if not source.archives:
        raise DataError(f"there is nothing to download for {name}. {source.instructions} Its page: {source.page}")
    root.mkdir(parents=True, exist_ok=True)
    for archive in source.archives:
        file = fetch(archive, root, progress=progress)
        unpack(file, root / source.folder)
        file.unlink()
    return root


def fetch(archive: Archive, folder: Path, *, progress: bool = True) -> Path:
    """Downloads one file into a folder and verifies it; resumes from `<file>.part` if that exists.

    Raises:
        DataError: the connection fails, or the checksum is wrong.
    """
    target = folder / archive.file_name
    if target.exists() and _checksum(target, archive.algorithm) == archive.checksum:
        return target
    part = target.with_name(target.name + ".part")
    try:
        _receive(archive.url, part, progress)
    except (OSError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
        partial = part.exists() and part.stat().st_size > 0
        remedy = f"run the same again to resume from {part}" if partial else "try again later"
        raise DataError(f"{archive.url} could not be downloaded ({error}); {remedy}") from error
    found = _checksum(part, archive.algorithm)
    if found != archive.checksum:
        part.unlink()
        raise DataError(
            f"{archive.url} has the {archive.algorithm} checksum {found}, but {archive.cited} states "
            f"{archive.checksum}; the file was removed, download it again"
        )
    os.replace(part, target)
    return target


def _receive(url: str, part: Path, progress: bool) -> None:
    """Appends what is missing to `part`, or downloads everything if the server cannot resume."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is missing; the checksum is verified later
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(
                total=total,
                initial=have if resumed else 0,
                unit="B",
                unit_scale=True,
                desc=part.stem,
                disable=not progress,
            ) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
            if total is not None and file.tell() < total:
                raise ConnectionError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _checksum(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .zip or .tar(.gz) file into a folder. Nothing is written outside the folder.

    The archive is unpacked to a temporary folder inside it. When it is complete, its top-level entries are moved to the
    folder, and replace entries of the same name.

    Raises:
        DataError: the archive is broken, or has a device, a path or link that leads out of the folder, or a link in a
            .zip. A .tar member with an absolute path is unpacked below the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".unpacking-"))
    try:
        if zipfile.is_zipfile(archive):
            _unzip(archive, temporary)
        else:
            if not hasattr(tarfile, "data_filter"):
                raise DataError(f"{archive} was not unpacked, which needs Python 3.11.4 or later; unpack it by hand")
            with tarfile.open(archive) as content:
                content.extractall(temporary, filter="data")  # refuses "..", links out and devices, strips "/"
        for entry in sorted(temporary.iterdir()):
            _replace(entry, folder / entry.name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{archive} was not unpacked ({error}); download it again") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unzip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            path = PurePosixPath(member.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise DataError(
                    f"{archive} was not unpacked, because its member {member.filename!r} leads out of the folder; "
                    "download it again"
                )
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DataError(
                    f"{archive} was not unpacked, because its member {member.filename!r} is a link; download it again"
                )
        content.extractall(folder)


def _replace(entry: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    os.replace(entry, target)
